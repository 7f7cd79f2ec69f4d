use std::sync::Arc;

use super::*;
use crate::profile::sample::{
    sample, sample_of, sample_pending, sample_with_losses, sample_with_memory,
};
use crate::profile::{Advice, Frame, Process, Role, RoleKind, StackPages};

/// Names as somebody chooses them who means ill.
const HOSTILE: [&str; 4] = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\" onload='alert(3)'><!--",
    "safe\u{202e}efas\u{1b}[2J",
];

fn page(profile: &Profile) -> String {
    let mut out = Vec::new();
    Html.write(profile, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// What stands between the first `begin` and the `end` after it.
fn between<'a>(page: &'a str, begin: &str, end: &str) -> &'a str {
    let from = page.find(begin).unwrap() + begin.len();
    &page[from..from + page[from..].find(end).unwrap()]
}

fn samples() -> Vec<Profile> {
    vec![
        sample(),
        sample_with_losses(),
        sample_pending(),
        sample_with_memory(),
        sample_of(&[]),
        nothing(),
    ]
}

/// A profile of nothing at all.
fn nothing() -> Profile {
    let mut profile = sample_of(&[]);
    profile.processes.clear();
    profile.host.blind_spots.clear();
    profile.command.clear();
    profile.duration_s = 0.0;
    profile
}

/// A profile in which everything foreign has these names.
fn hostile(name: &str) -> Profile {
    let mut profile = sample_with_memory();
    for site in &mut profile.call_sites {
        site.site.function = name.into();
        site.site.file = Some(name.into());
        site.app = Some(site.site.clone());
        site.object_type = Some(name.into());
        site.cause_reason = Some(name.to_owned());
        for stack in &mut site.stacks {
            let named = |frame: &Arc<Frame>| {
                Arc::new(Frame {
                    function: name.into(),
                    file: Some(name.into()),
                    module: Some(name.into()),
                    ..(**frame).clone()
                })
            };
            stack.frames = stack.frames.iter().map(named).collect();
        }
    }
    profile.types = crate::profile::type_rows(&profile.call_sites);
    for process in &mut profile.processes {
        name.clone_into(&mut process.comm);
        process.cmdline = vec![name.to_owned()];
    }
    for role in &mut profile.roles {
        name.clone_into(&mut role.name);
    }
    profile.command = vec![name.to_owned()];
    profile.warnings = vec![name.to_owned()];
    profile.host.blind_spots = vec![name.to_owned()];
    name.clone_into(&mut profile.host.kernel);
    name.clone_into(&mut profile.started_at);
    profile.advice = vec![Advice {
        id: name.to_owned(),
        title: name.to_owned(),
        why: name.to_owned(),
        saves_bytes: 1,
        confidence: crate::profile::Confidence::Low,
        how: vec![name.to_owned()],
        evidence: vec![name.to_owned()],
    }];
    profile
}

/// A profile of so many stacks, which part the deeper they get.
fn with_stacks(number: u64) -> Profile {
    const DEPTH: u64 = 40;
    let pool = |at: u64, depth: u64| {
        let function = (at * 31 + depth) % 3_000;
        Arc::new(Frame {
            language: crate::profile::Language::Python,
            line: Some(function as u32 + 1),
            file: Some(
                format!(
                    "/srv/app/package{}/module{}.py",
                    function % 17,
                    function % 190
                )
                .into(),
            ),
            ..Frame::native(&format!("Class{}.method_{function}", function % 70), "")
        })
    };
    let mut known = std::collections::BTreeMap::new();
    let stacks = (0..number).map(|at| {
        let frames = (0..DEPTH).rev().map(|depth| {
            let branches = (1 << (depth / 2).min(15)).min(number);
            let branch = at * branches / number;
            let frame = known
                .entry((branch, depth))
                .or_insert_with(|| pool(branch, depth));
            Arc::clone(frame)
        });
        StackPages {
            pages: 1 + at % 7,
            truncated: false,
            truncated_why: None,
            frames: frames.collect(),
        }
    });
    let stacks: Vec<StackPages> = stacks.collect();
    let pages = stacks.iter().map(|stack| stack.pages).sum();
    let mut profile = sample_of(&[(pages, CauseName::Refcount, "walk", Some("str"))]);
    profile.call_sites[0].stacks = stacks;
    profile
}

/// Pages by cause that the embedded stacks add up to.
fn sums(data: &serde_json::Value) -> Vec<u64> {
    let causes = data["causes"].as_array().unwrap().len();
    let mut sums = vec![0; causes];
    for (kind, pages) in kinds(data) {
        sums[kind % causes] += pages;
    }
    sums
}

/// The numbers of kinds, and pages, of all stacks.
fn kinds(data: &serde_json::Value) -> Vec<(usize, u64)> {
    let numbers = data["stacks"].as_array().unwrap();
    let number = |at: usize| numbers[at].as_u64().unwrap() as usize;
    let mut kinds = Vec::new();
    let mut at = 0;
    while at < numbers.len() {
        at += 2 + number(at + 1);
        for _ in 0..number(at) {
            kinds.push((number(at + 1), number(at + 2) as u64));
            at += 2;
        }
        at += 1;
    }
    kinds
}

/// The data in a page.
fn embedded(page: &str) -> serde_json::Value {
    serde_json::from_str(between(page, "id=\"data\">", "</script>")).unwrap()
}

fn parsed(profile: &Profile) -> serde_json::Value {
    serde_json::from_str(&data::json(profile).unwrap()).unwrap()
}

#[test]
fn every_profile_has_a_page() {
    for profile in samples() {
        let page = page(&profile);
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        let body = body(&profile);
        assert!(!body.contains("NaN") && !body.contains("inf"));
    }
    assert!(page(&nothing()).contains("<h1>Nothing was copied in"));
}

#[test]
fn what_was_lost_comes_before_every_figure() {
    let page = page(&sample_with_losses());
    let (lost, headline) = (
        page.find("class=\"banner\"").unwrap(),
        page.find("<h1>").unwrap(),
    );
    assert!(lost < headline);
    assert!(!body(&sample()).contains("class=\"banner\""));
}

#[test]
fn totals_in_the_data_are_those_of_the_profile() {
    for profile in samples() {
        let (data, totals) = (parsed(&profile), &profile.totals);
        assert_eq!(data["pages"], totals.copied_pages);
        let by_cause: Vec<u64> = totals.by_cause.iter().map(|(_, pages)| pages).collect();
        assert_eq!(sums(&data), by_cause);
        let sites = data["sites"].as_array().unwrap().iter();
        let pages: u64 = sites.map(|site| site["p"].as_u64().unwrap()).sum();
        assert_eq!(pages, totals.copied_pages);
    }
}

#[test]
fn stacks_that_are_added_up_keep_all_pages() {
    let profile = with_stacks(1_000);
    let roles = roles::Roles::of(&profile);
    let mut collected = stacks::Collected::of(&profile, &data::causes(&profile), &roles);
    for keep in [0, 1, 500, 1_000] {
        let (data, _) = data::of(&profile, &roles, &mut collected, keep);
        let data = serde_json::to_value(&data).unwrap();
        assert_eq!(sums(&data).iter().sum::<u64>(), profile.totals.copied_pages);
        let folded = data["folded"][0].as_u64().unwrap_or(0);
        assert_eq!(folded, 1_000 - keep as u64);
    }
}

#[test]
fn pages_are_told_by_role_where_all_processes_of_a_call_site_have_one() {
    let mut profile = sample_with_memory();
    let names = |data: &serde_json::Value| -> Vec<String> {
        let roles = data["roles"].as_array().unwrap().iter();
        let text = |role: &serde_json::Value| {
            let at = role.as_u64().unwrap() as usize;
            data["strings"][at].as_str().unwrap().to_owned()
        };
        roles.map(text).collect()
    };
    let data = parsed(&profile);
    let roles = names(&data);
    assert_eq!(roles.last().map(String::as_str), Some("several roles"));
    let causes = data["causes"].as_array().unwrap().len();
    let mut by_role = vec![0; roles.len()];
    for (kind, pages) in kinds(&data) {
        by_role[kind / causes] += pages;
    }
    let mut expected = vec![0; roles.len()];
    for site in &profile.call_sites {
        let role = |pid| profile.processes.iter().find(|it| it.pid == pid).unwrap();
        let mut of: Vec<_> = site.processes.keys().map(|&pid| &role(pid).role).collect();
        of.dedup();
        let copied = profile.roles.iter().filter(|role| role.copied_pages > 0);
        let at = match of[..] {
            [one] => copied
                .map(|role| &role.id)
                .position(|id| Some(id) == one.as_ref()),
            _ => None,
        };
        expected[at.unwrap_or(roles.len() - 1)] += site.pages;
    }
    assert_eq!(by_role, expected);
    assert!(
        expected.iter().filter(|&&pages| pages > 0).count() > 1,
        "{expected:?}"
    );
    // Where all copies are of one role, there is nothing to tell apart.
    profile.roles.truncate(1);
    assert!(names(&parsed(&profile)).is_empty());
}

#[test]
fn hostile_names_stay_text() {
    for name in HOSTILE
        .into_iter()
        .chain([&*"ü".repeat(500), &"x".repeat(500)])
    {
        let page = page(&hostile(name));
        // Those of the data and of the script itself.
        assert_eq!(page.matches("<script").count(), 2, "{name}");
        assert_eq!(page.matches("</script").count(), 2, "{name}");
        assert!(!page.contains("<img") && !page.contains("<!--"), "{name}");
        assert!(!page.contains(['\u{202e}', '\u{1b}']), "{name}");
        // Nothing ends an attribute that it is in.
        assert!(!body(&hostile(name)).contains("\" onload='"), "{name}");
        let data = embedded(&page);
        let longest = data["strings"].as_array().unwrap().iter();
        assert!(
            longest
                .map(|text| text.as_str().unwrap().len())
                .max()
                .unwrap()
                < 260
        );
    }
}

#[test]
fn the_policy_lets_the_pages_own_style_and_script_through_and_nothing_else() {
    let page = page(&sample());
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    let policy = between(&page, "Content-Security-Policy\" content=\"", "\"");
    let style = hash(between(&page, "<style>", "</style>"));
    let script = hash(between(&page, "<script>", "</script>"));
    assert_eq!(
        policy,
        format!(
            "default-src 'none'; script-src {script}; style-src {style}; base-uri 'none'; \
             form-action 'none'"
        )
    );
    // What the policy would block, or what would ask for something.
    for blocked in [
        " style=\"",
        " onclick",
        "javascript:",
        "src=\"",
        "url(",
        "@import",
        "http://www.w3.org/1999",
    ] {
        assert!(!page.contains(blocked), "{blocked}");
    }
}

#[test]
fn ten_thousand_stacks_make_a_page_of_at_most_a_megabyte_and_a_half() {
    let profile = with_stacks(10_000);
    let page = page(&profile);
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
    assert!(embedded(&page)["folded"].is_null());
}

#[test]
fn too_many_stacks_are_added_up_and_it_is_said() {
    let profile = with_stacks(24_000);
    let page = page(&profile);
    let data = embedded(&page);
    assert!(data["folded"][0].as_u64().unwrap() > 0);
    assert_eq!(sums(&data).iter().sum::<u64>(), profile.totals.copied_pages);
    assert!(page.len() < 1_500_000);
}

#[test]
fn many_processes_are_grouped_by_role() {
    let mut profile = sample_with_memory();
    let worker = profile.processes[1].clone();
    profile.processes.extend((0..2_000).map(|at| Process {
        pid: 10_000 + at,
        ..worker.clone()
    }));
    let page = body(&profile);
    assert!(page.contains("<details class=\"role\" open>"));
    assert!(page.contains("more copied"));
    assert!(page.matches("class=\"life\"").count() < 300);
}

#[test]
fn a_part_of_the_bar_has_its_name_where_there_is_room() {
    let profile = sample_of(&[
        (700, CauseName::Refcount, "walk", Some("str")),
        (200, CauseName::Gc, "collect", Some("dict")),
        (90, CauseName::Allocator, "free", None),
        (10, CauseName::Data, "write", None),
    ]);
    let page = body(&profile);
    let bar = between(&page, "<svg class=\"bar\"", "</svg>");
    assert!(bar.contains(">refcount 70%</text>") && bar.contains(">gc 20%</text>"));
    assert!(!bar.contains(">allocator 9%<") && !bar.contains(">data 1%<"));
    assert!(bar.contains("by cause: refcount 70%, gc 20%, allocator 9%, data 1%"));
    assert!(between(&page, "<ul class=\"legend\">", "</ul>").contains("<b>data</b> 1.0%"));
}

#[test]
fn a_role_of_a_later_version_is_named() {
    let mut profile = sample_with_memory();
    let kind = serde_json::from_str::<RoleKind>("\"spare\"").unwrap();
    profile.roles.push(Role {
        kind,
        ..profile.roles[0].clone()
    });
    assert!(body(&profile).contains("gunicorn spare"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "the report is as long as that")]
fn the_page_of_the_sample_without_styles_script_and_data() {
    insta::assert_snapshot!(body(&sample()), @r##"
    <header>
    <h1>27.2 MiB copied in 10.2 s, 2.7 MiB/s</h1>
    <p class="lead">More than was copied is new memory: 90,123 absent pages (352.0 MiB at least) were filled for the first time, which is no copy. 75% of what was copied was only read: 59% reference counts (mostly <code>str</code>, in <code>Catalog.render</code>, catalog.py:212), 16% garbage collection; for 3% it is not known.</p>
    <svg class="bar" role="img" aria-label="Copied pages by cause: refcount 61%, gc 16%, kernel 9%, data 7%, object 3%, unknown 3%, allocator 2%">
    <rect class="c-refcount" x="0%" width="61.28%" height="34"/>
    <text x="0%" dx="9" y="22">refcount 61%</text>
    <rect class="c-gc" x="61.28%" width="15.94%" height="34"/>
    <text class="wide" x="61.28%" dx="9" y="22">gc 16%</text>
    <rect class="c-kernel" x="77.22%" width="8.79%" height="34"/>
    <rect class="c-data" x="86.01%" width="6.66%" height="34"/>
    <rect class="c-object" x="92.67%" width="3.02%" height="34"/>
    <rect class="c-unknown" x="95.69%" width="2.59%" height="34"/>
    <rect class="c-allocator" x="98.28%" width="1.72%" height="34"/>
    </svg>
    <ul class="legend">
    <li><i class="key c-refcount"></i><b>refcount</b> 61.3% <span class="dim">16.7 MiB, an object&#39;s reference count</span></li>
    <li><i class="key c-gc"></i><b>gc</b> 15.9% <span class="dim">4.3 MiB, the garbage collector&#39;s mark</span></li>
    <li><i class="key c-kernel"></i><b>kernel</b> 8.8% <span class="dim">2.4 MiB, by the kernel, for a system call</span></li>
    <li><i class="key c-data"></i><b>data</b> 6.7% <span class="dim">1.8 MiB, other writable data</span></li>
    <li><i class="key c-object"></i><b>object</b> 3.0% <span class="dim">840.0 KiB, a field of an object</span></li>
    <li><i class="key c-unknown"></i><b>unknown</b> 2.6% <span class="dim">720.0 KiB, not known what was written</span></li>
    <li><i class="key c-allocator"></i><b>allocator</b> 1.7% <span class="dim">480.0 KiB, a memory allocator&#39;s bookkeeping</span></li>
    </ul>
    <ul class="said">
    <li>20% was written to: 9% written by the kernel, 6% data, 3% fields of objects, 2% something else.</li>
    <li>Of a sample of 5,000 of 6,000 copied pages, 4,117 (82%) still equal the parent&#39;s: they were copied for nothing. 698 pages could not be compared: their process had ended.</li>
    <li>The kernel copied 6,962 pages of 4.0 KiB for 5 of 6 processes.</li>
    <li>2 processes had been forked before the trace began: what they had copied until then is not in these figures.</li>
    <li>The command &#39;wrk&#39; exited with status 0.</li>
    <li>Nothing was lost.</li>
    </ul>
    <p class="facts">memtrace 0.1.0, tracepoint backend, stacks by frame pointer, Linux 6.12.41-cloud-amd64 x86_64, 2026-03-14T15:09:26Z</p>
    <details class="spots"><summary>What the tracepoint backend cannot see: 2 blind spots</summary>
    <ul>
    <li>Pages that another process writes through ptrace, /proc/PID/mem or process_vm_writev, and pages that a device writes by direct I/O, are copied without an exception, so they are not counted.</li>
    <li>Copies of hugetlb pages are counted as reuse.</li>
    </ul></details>
    </header>
    <nav aria-label="Parts of the report">
    <a href="#where">Flame graph</a>
    <a href="#sites">Call sites</a>
    <a href="#types">Types</a>
    <a href="#processes">Processes</a>
    </nav>
    <main>
    <section id="where"><h2>Where</h2>
    <noscript><p>The flame graph, search and sorting need JavaScript.</p></noscript>
    <div class="tools js" hidden>
    <label>Search <input id="search" type="search" placeholder="function, file or type" autocomplete="off" spellcheck="false" aria-keyshortcuts="/" aria-describedby="found"></label>
    <label id="role-label" hidden><input id="role" type="checkbox"> By process role</label>
    <label id="native-label"><input id="native" type="checkbox"> Native frames</label>
    <label><input id="leaf" type="checkbox"> Leaf first</label>
    <button id="back" type="button" disabled aria-keyshortcuts="Escape">Zoom out</button>
    <output id="found" aria-live="polite"></output>
    </div>
    <p id="zoomed" class="js dim" hidden></p>
    <div id="flame" class="js" role="group" aria-label="Flame graph: arrow keys walk, Enter zooms, Escape goes back" hidden></div>
    <p id="notes" class="js dim" hidden></p>
    <details id="tree-details" class="js" hidden><summary>The same as a table</summary>
    <div class="scroll"><table id="tree" role="treegrid" aria-label="Stacks as a tree">
    <thead><tr role="row"><th scope="col" role="columnheader">Function</th><th scope="col" role="columnheader" class="n">Copied</th><th scope="col" role="columnheader" class="n">Share</th><th scope="col" role="columnheader">By cause</th></tr></thead>
    <tbody></tbody></table></div></details></section>
    <section id="sites"><h2>Call sites<span id="sites-shown"> <small>12</small></span></h2>
    <div class="scroll" role="region" aria-label="Call sites" tabindex="0"><table id="site-table"><thead><tr><th scope="col">Call site</th><th scope="col" class="n">Copied</th><th scope="col" class="n">Share</th><th scope="col">Cause</th><th scope="col">Mostly of type</th><th scope="col" class="n more">Latency p50</th><th scope="col" class="n more">p99</th><th scope="col" class="n more">Age p50</th><th scope="col" class="n more">Processes</th></tr></thead>
    <tbody>
    <tr><th scope="row"><code>Catalog.render</code> <span class="dim" title="/srv/shop/app/catalog.py:212">catalog.py:212</span></th><td class="n">14.5 MiB</td><td class="n">53.2%</td><td class="cause"><i class="key c-refcount"></i>refcount</td><td><code>str +3</code></td><td class="n more">2.09 µs</td><td class="n more">3.10 µs</td><td class="n more">2.53 s</td><td class="n more">3</td></tr>
    <tr><th scope="row"><code>context</code> <span class="dim" title="/srv/shop/app/context.py:31">context.py:31</span></th><td class="n">3.8 MiB</td><td class="n">13.9%</td><td class="cause"><i class="key c-gc"></i>gc</td><td><code>dict +1</code></td><td class="n more">2.06 µs</td><td class="n more">3.10 µs</td><td class="n more">2.11 s</td><td class="n more">2</td></tr>
    <tr><th scope="row"><code>recv</code> <span class="dim" title="/usr/lib/python3.11/socket.py:706">socket.py:706</span></th><td class="n">2.4 MiB</td><td class="n">8.8%</td><td class="cause"><i class="key c-kernel"></i>kernel</td><td><code></code></td><td class="n more">2.08 µs</td><td class="n more">3.10 µs</td><td class="n more">2.04 s</td><td class="n more">2</td></tr>
    <tr><th scope="row"><code>Catalog.render</code> <span class="dim" title="/srv/shop/app/catalog.py:219">catalog.py:219</span></th><td class="n">1.7 MiB</td><td class="n">6.1%</td><td class="cause"><i class="key c-refcount"></i>refcount</td><td><code>decimal.Decimal</code></td><td class="n more">2.10 µs</td><td class="n more">3.10 µs</td><td class="n more">2.78 s</td><td class="n more">2</td></tr>
    <tr><th scope="row"><code>std::_Hashtable&lt;std::string, std::pair&lt;std::string const, shop::pricing::Rule&gt;, std::allocator&lt;std::pair&lt;std::string const, shop::pricing::Rule&gt;&gt;&gt;::_M_insert_unique_node</code> <span class="dim" title="/usr/include/c++/12/bits/hashtable.h:1719">hashtable.h:1719</span></th><td class="n">1.6 MiB</td><td class="n">5.7%</td><td class="cause"><i class="key c-data"></i>data</td><td><code></code></td><td class="n more">2.06 µs</td><td class="n more">3.10 µs</td><td class="n more">2.61 s</td><td class="n more">1</td></tr>
    <tr><th scope="row"><code>Session.touch</code> <span class="dim" title="/srv/shop/app/sessions.py:47">sessions.py:47</span></th><td class="n">840.0 KiB</td><td class="n">3.0%</td><td class="cause"><i class="key c-object"></i>object</td><td><code>dict +1</code></td><td class="n more">2.02 µs</td><td class="n more">3.10 µs</td><td class="n more">696 ms</td><td class="n more">1</td></tr>
    <tr><th scope="row"><code>libssl.so.3+0x4a1f0 (no symbol)</code> <span class="dim" title="/usr/lib/x86_64-linux-gnu/libssl.so.3">libssl.so.3</span></th><td class="n">720.0 KiB</td><td class="n">2.6%</td><td class="cause"><i class="key c-unknown"></i>unknown</td><td><code></code></td><td class="n more">1.99 µs</td><td class="n more">3.10 µs</td><td class="n more">1.18 s</td><td class="n more">1</td></tr>
    <tr><th scope="row"><code>idle</code> <span class="dim" title="/srv/shop/gunicorn.conf.py:12">gunicorn.conf.py:12</span></th><td class="n">560.0 KiB</td><td class="n">2.0%</td><td class="cause"><i class="key c-gc"></i>gc</td><td><code></code></td><td class="n more">1.95 µs</td><td class="n more">3.10 µs</td><td class="n more">917 ms</td><td class="n more">1</td></tr>
    <tr><th scope="row"><code>std::_Sp_counted_base&lt;(__gnu_cxx::_Lock_policy)2&gt;::_M_add_ref_copy</code> <span class="dim" title="/usr/include/c++/12/bits/shared_ptr_base.h:152">shared_ptr_base.h:152</span></th><td class="n">520.0 KiB</td><td class="n">1.9%</td><td class="cause"><i class="key c-refcount"></i>refcount</td><td><code></code></td><td class="n more">1.91 µs</td><td class="n more">3.10 µs</td><td class="n more">852 ms</td><td class="n more">1</td></tr>
    <tr><th scope="row"><code>_PyObject_Free</code> <span class="dim" title="./Objects/obmalloc.c:1834">obmalloc.c:1834</span></th><td class="n">480.0 KiB</td><td class="n">1.7%</td><td class="cause"><i class="key c-allocator"></i>allocator</td><td><code></code></td><td class="n more">1.99 µs</td><td class="n more">3.10 µs</td><td class="n more">787 ms</td><td class="n more">1</td></tr>
    <tr><th scope="row"><code>_dl_relocate_object</code> <span class="dim" title="./elf/dl-reloc.c:288">dl-reloc.c:288</span></th><td class="n">256.0 KiB</td><td class="n">0.9%</td><td class="cause"><i class="key c-data"></i>data</td><td><code></code></td><td class="n more">1.91 µs</td><td class="n more">3.10 µs</td><td class="n more">-</td><td class="n more">1</td></tr>
    <tr><th scope="row"><code>evil\u{1b}[2J\u{202e}eman\nfunction</code> <span class="dim" title="/tmp/日本語/\u{7}.py:1">\u{7}.py:1</span></th><td class="n">36.0 KiB</td><td class="n">0.1%</td><td class="cause"><i class="key c-refcount"></i>refcount</td><td><code>&lt;script&gt;alert(1)&lt;/script&gt;\u{1b}]0;owned\u{7}\u{202e}epytéééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé</code></td><td class="n more">-</td><td class="n more">-</td><td class="n more">72.0 ms</td><td class="n more">1</td></tr>
    </tbody></table></div>
    </section>
    <section id="types"><h2>Types of the objects written to <small>10</small></h2>
    <div class="scroll" role="region" aria-label="Types" tabindex="0"><table class="sortable"><thead><tr><th scope="col">Type</th><th scope="col" class="n">Copied</th><th scope="col" class="n">Share</th><th scope="col">Cause</th></tr></thead>
    <tbody>
    <tr><th scope="row"><code>str</code></th><td class="n" data-v="10240000">9.8 MiB</td><td class="n" data-v="2500">35.9%</td><td class="cause"><i class="key c-refcount"></i>refcount</td></tr>
    <tr><th scope="row"><code>dict</code></th><td class="n" data-v="3223552">3.1 MiB</td><td class="n" data-v="787">11.3%</td><td class="cause"><i class="key c-refcount"></i>refcount</td></tr>
    <tr><th scope="row"><code>dict</code></th><td class="n" data-v="2990080">2.9 MiB</td><td class="n" data-v="730">10.5%</td><td class="cause"><i class="key c-gc"></i>gc</td></tr>
    <tr><th scope="row"><code>decimal.Decimal</code></th><td class="n" data-v="1740800">1.7 MiB</td><td class="n" data-v="425">6.1%</td><td class="cause"><i class="key c-refcount"></i>refcount</td></tr>
    <tr><th scope="row"><code>shop.models.Product</code></th><td class="n" data-v="1228800">1.2 MiB</td><td class="n" data-v="300">4.3%</td><td class="cause"><i class="key c-refcount"></i>refcount</td></tr>
    <tr><th scope="row"><code>function</code></th><td class="n" data-v="983040">960.0 KiB</td><td class="n" data-v="240">3.4%</td><td class="cause"><i class="key c-gc"></i>gc</td></tr>
    <tr><th scope="row"><code>dict</code></th><td class="n" data-v="614400">600.0 KiB</td><td class="n" data-v="150">2.2%</td><td class="cause"><i class="key c-object"></i>object</td></tr>
    <tr><th scope="row"><code>tuple</code></th><td class="n" data-v="471040">460.0 KiB</td><td class="n" data-v="115">1.7%</td><td class="cause"><i class="key c-refcount"></i>refcount</td></tr>
    <tr><th scope="row"><code>shop.sessions.Session</code></th><td class="n" data-v="245760">240.0 KiB</td><td class="n" data-v="60">0.9%</td><td class="cause"><i class="key c-object"></i>object</td></tr>
    <tr><th scope="row"><code>&lt;script&gt;alert(1)&lt;/script&gt;\u{1b}]0;owned\u{7}\u{202e}epytéééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé</code></th><td class="n" data-v="36864">36.0 KiB</td><td class="n" data-v="9">0.1%</td><td class="cause"><i class="key c-refcount"></i>refcount</td></tr>
    </tbody></table></div></section>
    <section id="processes"><h2>Processes <small>6</small></h2>
    <div class="scroll" role="region" aria-label="Processes" tabindex="0"><table class="sortable processes"><thead><tr><th scope="col">Process</th><th scope="col" class="life-column">Lived</th><th scope="col" class="n">Copied</th><th scope="col" class="bar-column">By cause</th><th scope="col" class="n">Only read</th><th scope="col" class="n more">Unchanged</th></tr></thead>
    <tbody>
    <tr><th scope="row" data-v="4243">4243 <span class="dim">gunicorn: worke</span></th><td data-v="0"><svg class="life" role="img" aria-label="all the time"><title>all the time</title><rect class="whole" width="100%" y="4" height="2"/><rect class="lived" x="0%" width="100%" height="10" rx="2"/></svg></td><td class="n" data-v="13148160">12.5 MiB</td><td data-v="3210"><svg class="copied" role="img" aria-label="refcount 66.4%, gc 11.8%, kernel 9.3%, data 12.5%"><title>refcount 66.4%, gc 11.8%, kernel 9.3%, data 12.5%</title><rect class="c-refcount" x="0%" width="66.36%" height="12"/><rect class="c-gc" x="66.36%" width="11.84%" height="12"/><rect class="c-kernel" x="78.19%" width="9.35%" height="12"/><rect class="c-data" x="87.54%" width="12.46%" height="12"/></svg></td><td class="n" data-v="0.7414330218068536">74.1%</td><td class="n more">84.0%</td></tr>
    <tr><th scope="row" data-v="4244">4244 <span class="dim">gunicorn: worke</span></th><td data-v="0"><svg class="life" role="img" aria-label="all the time"><title>all the time</title><rect class="whole" width="100%" y="4" height="2"/><rect class="lived" x="0%" width="100%" height="10" rx="2"/></svg></td><td class="n" data-v="11972608">11.4 MiB</td><td data-v="2923"><svg class="copied" role="img" aria-label="refcount 62.0%, gc 20.2%, kernel 10.7%, object 7.2%"><title>refcount 62.0%, gc 20.2%, kernel 10.7%, object 7.2%</title><rect class="c-refcount" x="0%" width="56.42%" height="12"/><rect class="c-gc" x="56.42%" width="18.38%" height="12"/><rect class="c-kernel" x="74.8%" width="9.72%" height="12"/><rect class="c-object" x="84.52%" width="6.54%" height="12"/></svg></td><td class="n" data-v="0.8214163530619227">82.1%</td><td class="n more">80.6%</td></tr>
    <tr><th scope="row" data-v="4245">4245 <span class="dim">gunicorn: worke</span></th><td data-v="0.512"><svg class="life" role="img" aria-label="from 512 ms to 6.25 s"><title>from 512 ms to 6.25 s</title><rect class="whole" width="100%" y="4" height="2"/><rect class="lived" x="5%" width="55.98%" height="10" rx="2"/></svg></td><td class="n" data-v="2641920">2.5 MiB</td><td data-v="645"><svg class="copied" role="img" aria-label="refcount 50.4%, gc 21.7%, unknown 27.9%"><title>refcount 50.4%, gc 21.7%, unknown 27.9%</title><rect class="c-refcount" x="0%" width="10.12%" height="12"/><rect class="c-gc" x="10.12%" width="4.36%" height="12"/><rect class="c-unknown" x="14.49%" width="5.61%" height="12"/></svg></td><td class="n" data-v="0.7209302325581395">72.1%</td><td class="n more">-</td></tr>
    <tr><th scope="row" data-v="4242">4242 <span class="dim">gunicorn</span></th><td data-v="0"><svg class="life" role="img" aria-label="all the time"><title>all the time</title><rect class="whole" width="100%" y="4" height="2"/><rect class="lived" x="0%" width="100%" height="10" rx="2"/></svg></td><td class="n" data-v="491520">480.0 KiB</td><td data-v="120"><svg class="copied" role="img" aria-label="allocator 100.0%"><title>allocator 100.0%</title><rect class="c-allocator" x="0%" width="3.74%" height="12"/></svg></td><td class="n" data-v="0">0.0%</td><td class="n more">-</td></tr>
    <tr><th scope="row" data-v="4246">4246 <span class="dim">sh</span></th><td data-v="7.001"><svg class="life" role="img" aria-label="from 7.00 s to 7.02 s"><title>from 7.00 s to 7.02 s</title><rect class="whole" width="100%" y="4" height="2"/><rect class="lived" x="68.3%" width="0.4%" height="10" rx="2"/></svg></td><td class="n" data-v="262144">256.0 KiB</td><td data-v="64"><svg class="copied" role="img" aria-label="data 100.0%"><title>data 100.0%</title><rect class="c-data" x="0%" width="1.99%" height="12"/></svg></td><td class="n" data-v="0">0.0%</td><td class="n more">-</td></tr>
    <tr><th scope="row" data-v="4247">4247 <span class="dim">report.py</span></th><td data-v="9.998"><svg class="life" role="img" aria-label="from 10.0 s on"><title>from 10.0 s on</title><rect class="whole" width="100%" y="4" height="2"/><rect class="lived" x="97.54%" width="2.46%" height="10" rx="2"/></svg></td><td class="n" data-v="0">0 B</td><td data-v="0"></td><td class="n" data-v="0">-</td><td class="n more">-</td></tr>
    </tbody></table></div>
    </section>
    </main>
    <footer><p>Made by memtrace 0.1.0 of what was recorded from 2026-03-14T15:09:26Z on under Linux 6.12.41-cloud-amd64 x86_64, in 6 processes. Command: <code>wrk -d 10 http://localhost:8000/</code>. To make one like it: <code>memtrace -o report.html …</code>. All of it is in this file, which asks for nothing and has no third-party code.</p></footer>
    "##);
}

#[test]
fn the_curve_of_the_sample() {
    insta::assert_snapshot!(curve::section(&sample_with_memory()), @r#"
    <section id="time"><h2>When</h2>
    <figure class="curve">
    <figcaption>Most was copied 4.1 s into the trace, 10.0 MiB/s; half of all was copied by 6.15 s. 3 forks and 2 exits. A column is 2.05 s wide.</figcaption>
    <p class="plot">copied per second, by cause</p>
    <div class="row"><span class="y"><span>10 MiB/s</span><span>0</span></span><svg class="tall" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="Copied per second over time, by cause: refcount, gc, kernel, data, object, unknown, allocator; at most 10.0 MiB per second">
    <path class="grid" d="M0 50H1000"/>
    <path class="c-refcount" d="M200 79.7H400L400 39H600V100H400V100H200Z"/>
    <path class="c-gc" d="M200 74.4H400L400 23.2H600V39H400V79.7H200Z"/>
    <path class="c-kernel" d="M200 71.5H400L400 14.4H600V23.2H400V74.4H200Z"/>
    <path class="c-data" d="M200 69.3H400L400 7.8H600V14.4H400V71.5H200Z"/>
    <path class="c-object" d="M200 68.3H400L400 4.8H600V7.8H400V69.3H200Z"/>
    <path class="c-unknown" d="M200 67.4H400L400 2.2H600V4.8H400V68.3H200Z"/>
    <path class="c-allocator" d="M200 66.9H400L400 0.5H600V2.2H400V67.4H200Z"/>
    </svg></div>
    <div class="row"><span class="y one"><span>forks</span></span><svg class="ticks forks" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="3 forks"><path d="M100 0V10M700 0V10M900 0V10"/></svg></div>
    <div class="row"><span class="y one"><span>exits</span></span><svg class="ticks exits" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="2 exits"><path d="M700 0V10"/></svg></div>
    <p class="plot">gunicorn: worker, each on average: <span class="shared">shared 60.0 MiB at first, 40.0 MiB at the end</span>; <span class="private">private 8.0 MiB at first, 28.0 MiB at the end</span></p>
    <div class="row"><span class="y"><span>60 MiB</span><span>0</span></span><svg class="low" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="Memory of gunicorn: worker, each on average: shared from 60.0 MiB to 40.0 MiB, private from 8.0 MiB to 28.0 MiB">
    <path class="grid" d="M0 50H1000"/>
    <path class="line shared" d="M0 0L200 8.3L400 16.7L600 25L800 33.3"/>
    <path class="line private" d="M0 86.7L200 78.3L400 70L600 61.7L800 53.3"/>
    </svg></div>
    <p class="plot">gunicorn master: <span class="shared">shared 60.0 MiB at first, 40.0 MiB at the end</span>; <span class="private">private 8.0 MiB at first, 28.0 MiB at the end</span></p>
    <div class="row"><span class="y"><span>60 MiB</span><span>0</span></span><svg class="low" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="Memory of gunicorn master: shared from 60.0 MiB to 40.0 MiB, private from 8.0 MiB to 28.0 MiB">
    <path class="grid" d="M0 50H1000"/>
    <path class="line shared" d="M0 0L200 8.3L400 16.7L600 25L800 33.3"/>
    <path class="line private" d="M0 86.7L200 78.3L400 70L600 61.7L800 53.3"/>
    </svg></div>
    <div class="row"><span class="y"></span><svg class="axis" aria-hidden="true"><text x="0%" y="12" text-anchor="start">0 s</text><text class="wide" x="19.51%" y="12" text-anchor="middle">2 s</text><text x="39.02%" y="12" text-anchor="middle">4 s</text><text class="wide" x="58.54%" y="12" text-anchor="middle">6 s</text><text x="78.05%" y="12" text-anchor="middle">8 s</text><text class="wide" x="97.56%" y="12" text-anchor="end">10 s</text></svg></div>
    </figure></section>
    "#);
}
