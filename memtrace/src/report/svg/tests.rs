use std::sync::Arc;

use super::*;
use crate::profile::sample::{sample, sample_with_losses};
use crate::profile::{Frame, StackPages, Unknown};
use crate::report::samples::tests::{ALL_FRAMES, profiles};

fn written(profile: &Profile, frames: Frames) -> String {
    let mut bytes = Vec::new();
    Svg { frames }.write(profile, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The pages that the title of each box says, in order.
fn pages(svg: &str) -> Vec<u64> {
    let titles = svg.lines().filter(|line| line.contains(" of all"));
    let figures = titles.map(|line| line.split(" page").next().unwrap().replace(',', ""));
    figures.map(|figure| figure.parse().unwrap()).collect()
}

#[test]
fn a_box_is_a_function_filled_in_the_proportions_of_its_causes() {
    let mut profile = sample();
    profile.call_sites.truncate(7);
    insta::assert_snapshot!(written(&profile, Frames::Site), @r##"
    <svg xmlns="http://www.w3.org/2000/svg" width="1200" height="158" viewBox="0 0 1200 158" role="img" font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="12">
    <title>22.5 MiB copied on write: 5,754 pages in 10.2 s</title>
    <rect width="100%" height="100%" fill="#ffffff"/>
    <text x="10" y="22" font-size="15">22.5 MiB copied on write: 5,754 pages in 10.2 s</text>
    <rect x="10" y="30" width="12" height="12" fill="#ee8866"/><text x="28" y="40">69.7% refcount: an object&#39;s reference count</text>
    <rect x="10" y="48" width="12" height="12" fill="#99ddff"/><text x="28" y="58">12.7% gc: the garbage collector&#39;s mark</text>
    <rect x="10" y="66" width="12" height="12" fill="#eedd88"/><text x="28" y="76">10.6% kernel: by the kernel, for a system call</text>
    <rect x="10" y="84" width="12" height="12" fill="#77aadd"/><text x="28" y="94">7.0% data: other writable data</text>
    <g><title>all
    5,754 pages, 22.5 MiB, 100.0% of all
    refcount 69.7%, gc 12.7%, kernel 10.6%, data 7.0%</title><rect x="10.00" y="112" width="822.76" height="17" fill="#ee8866"/><rect x="832.76" y="112" width="149.70" height="17" fill="#99ddff"/><rect x="982.46" y="112" width="82.03" height="17" fill="#77aadd"/><rect x="1064.49" y="112" width="125.51" height="17" fill="#eedd88"/><rect x="1189.50" y="112" width="1" height="17" fill="#ffffff"/><text x="13.00" y="125">all</text></g>
    <g><title>Catalog.render (catalog.py:212)
    3,587 pages, 14.0 MiB, 62.3% of all
    refcount 100.0%</title><rect x="10.00" y="130" width="735.60" height="17" fill="#ee8866"/><rect x="745.10" y="130" width="1" height="17" fill="#ffffff"/><text x="13.00" y="143">Catalog.render (catalog.py:212)</text></g>
    <g><title>context (context.py:31)
    730 pages, 2.9 MiB, 12.7% of all
    gc 100.0%</title><rect x="745.60" y="130" width="149.70" height="17" fill="#99ddff"/><rect x="894.81" y="130" width="1" height="17" fill="#ffffff"/><text x="748.60" y="143">context (context.p…</text></g>
    <g><title>recv (socket.py:706)
    612 pages, 2.4 MiB, 10.6% of all
    kernel 100.0%</title><rect x="895.31" y="130" width="125.51" height="17" fill="#eedd88"/><rect x="1020.31" y="130" width="1" height="17" fill="#ffffff"/><text x="898.31" y="143">recv (socket.py…</text></g>
    <g><title>Catalog.render (catalog.py:219)
    425 pages, 1.7 MiB, 7.4% of all
    refcount 100.0%</title><rect x="1020.81" y="130" width="87.16" height="17" fill="#ee8866"/><rect x="1107.47" y="130" width="1" height="17" fill="#ffffff"/><text x="1023.81" y="143">Catalog.re…</text></g>
    <g><title>std::_Hashtable&lt;std::string, std::pair&lt;std::string const, shop::pricing::Rule&gt;, std::allocator&lt;std::pair&lt;std::string const, shop::pricing::Rule&gt;&gt;&gt;::_M_insert_unique_node
    400 pages, 1.6 MiB, 7.0% of all
    data 100.0%</title><rect x="1107.97" y="130" width="82.03" height="17" fill="#77aadd"/><rect x="1189.50" y="130" width="1" height="17" fill="#ffffff"/><text x="1110.97" y="143" font-style="italic">std::_Has…</text></g>
    </svg>
    "##);
}

#[test]
fn the_first_box_is_all_copies_and_those_of_a_row_are_no_more() {
    for (name, profile) in profiles() {
        for frames in ALL_FRAMES {
            let svg = written(&profile, frames);
            let total = profile.totals.copied_pages;
            assert_eq!(pages(&svg)[0], total, "{name}, {frames:?}");
            let tree = Tree::of(&samples(&profile, frames));
            let layout = Layout::of(&tree);
            for row in 0..layout.rows() {
                let in_row = layout.boxes.iter().filter(|drawn| drawn.row == row);
                assert!(in_row.map(|drawn| drawn.node.pages).sum::<u64>() <= total);
            }
        }
    }
    let svg = written(&sample_with_losses(), Frames::Python);
    assert!(svg.contains("; 1,204 without a record</title>"));
    assert!(svg.contains("[lost]"));
}

#[test]
fn the_words_of_the_legend_say_what_a_colour_means() {
    let svg = written(&sample(), Frames::Python);
    for (cause, pages) in sample().totals.by_cause.iter() {
        let said = format!("{cause}: {}", escaped(words::cause_meaning(cause)));
        assert_eq!(svg.contains(&said), pages > 0, "{said}");
    }
}

#[test]
fn hostile_names_stay_text_and_there_is_no_script() {
    let mut profile = sample();
    let name = "</title></text><script>alert('1')</script>\u{1b}\n&\"";
    profile.call_sites[0].site.function = name.into();
    let svg = written(&profile, Frames::Site);
    assert!(svg.contains(r"&lt;/title&gt;&lt;/text&gt;&lt;script&gt;"));
    for forbidden in ["<script", "onload", "href", "\u{1b}", "\u{202e}"] {
        assert!(!svg.contains(forbidden), "{forbidden}");
    }
    let count = |what: &str| svg.matches(what).count();
    assert_eq!(count("<title>"), count("</title>"));
    assert_eq!(count("<text "), count("</text>"));
    assert_eq!(count("<g>"), count("</g>"));
}

#[test]
fn what_is_too_narrow_or_too_deep_is_counted() {
    let mut profile = sample();
    let stack = profile.call_sites[0].stacks[0].clone();
    let frames = |depth: u64, name: &str| -> Arc<[Arc<Frame>]> {
        let frame = |n| Frame::placeholder(&format!("{name}{n}"), Unknown::NoSymbol);
        (0..depth).map(|n| Arc::new(frame(n))).collect()
    };
    profile.call_sites.truncate(1);
    let site = &mut profile.call_sites[0];
    let stack = |pages, frames| StackPages {
        pages,
        frames,
        ..stack.clone()
    };
    site.stacks = vec![
        stack(9_990, frames(200, "deep")),
        stack(10, frames(1, "wide")),
    ];
    site.stacks
        .extend((0..3).map(|n| stack(2, frames(1, &format!("thin{n}x")))));
    site.pages = 10_006;
    site.bytes = site.pages * 4096;
    let svg = written(&profile, Frames::Mixed);
    assert!(
        svg.contains(
            "Left out: 4 boxes under 0.1%, and what they called; 1 box below row 64, and what they \
             called."
        ),
        "{}",
        svg.lines().nth(4).unwrap()
    );
    assert!(svg.len() < 100_000);
}

#[test]
fn a_trace_without_copies_is_a_picture_too() {
    let mut profile = sample();
    profile.call_sites.clear();
    let svg = written(&profile, Frames::Python);
    assert!(
        svg.contains("0 B copied on write: 0 pages in 10.2 s"),
        "{svg}"
    );
    assert!(!svg.contains("NaN"));
}

#[test]
fn a_name_is_cut_where_its_box_ends() {
    assert_eq!(fitting("render", 60.0), "render");
    assert_eq!(fitting("render_everything", 60.0), "render_…");
    assert_eq!(fitting("render_everything", 20.0), "");
    assert_eq!(fitting("日本語日本語", 60.0), "日本語…");
}
