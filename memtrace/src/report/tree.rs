//! Samples as a tree of calls, for pictures: a node is a function on one way from the root.

use std::collections::BTreeMap;

use foldhash::HashMap;

use super::samples::{Sample, Step};
use crate::profile::CauseName;

/// The node that has all others below it.
pub(super) const ROOT: usize = 0;

/// A call tree.
pub(super) struct Tree<'a> {
    /// [`ROOT`] first; parents before their children.
    pub nodes: Vec<Node<'a>>,
}

/// A function, as it was called on one way.
#[derive(Default)]
pub(super) struct Node<'a> {
    /// The function; `None` for the root.
    pub step: Option<Step<'a>>,
    /// Pages copied here and below.
    pub pages: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Those pages by cause.
    pub causes: BTreeMap<CauseName, u64>,
    /// Pages copied here, by cause.
    pub own: BTreeMap<CauseName, u64>,
    /// Their places in [`Tree::nodes`], by pages, the most first.
    pub children: Vec<usize>,
}

impl Node<'_> {
    fn add(&mut self, sample: &Sample<'_>) {
        self.pages = self.pages.saturating_add(sample.pages);
        self.bytes = self.bytes.saturating_add(sample.bytes);
        count(&mut self.causes, sample);
    }
}

fn count(by_cause: &mut BTreeMap<CauseName, u64>, sample: &Sample<'_>) {
    let pages = by_cause.entry(sample.cause()).or_default();
    *pages = pages.saturating_add(sample.pages);
}

impl<'a> Tree<'a> {
    /// The tree of these samples.
    pub fn of(samples: &[Sample<'a>]) -> Self {
        let mut nodes = vec![Node::default()];
        let mut index: HashMap<(usize, Step<'a>), usize> = HashMap::default();
        for sample in samples.iter().filter(|sample| sample.pages > 0) {
            let mut at = ROOT;
            nodes[at].add(sample);
            for step in &sample.steps {
                let step = step.by_function();
                at = *index.entry((at, step)).or_insert_with(|| {
                    let new = nodes.len();
                    nodes.push(Node {
                        step: Some(step),
                        ..Node::default()
                    });
                    nodes[at].children.push(new);
                    new
                });
                nodes[at].add(sample);
            }
            count(&mut nodes[at].own, sample);
        }
        let order: Vec<_> = nodes.iter().map(|node| (node.pages, node.step)).collect();
        for node in &mut nodes {
            // Of equal ones by name, so that one profile has one picture.
            node.children.sort_by(|&a, &b| {
                let ((a_pages, a_step), (b_pages, b_step)) = (order[a], order[b]);
                b_pages.cmp(&a_pages).then(a_step.cmp(&b_step))
            });
        }
        Self { nodes }
    }

    /// The root.
    pub fn root(&self) -> &Node<'a> {
        &self.nodes[ROOT]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::samples;
    use crate::report::samples::tests::{ALL_FRAMES, profiles};

    #[test]
    fn each_node_is_what_is_copied_in_it_and_below() {
        for (name, profile) in profiles() {
            for frames in ALL_FRAMES {
                let tree = Tree::of(&samples(&profile, frames));
                assert_eq!(tree.root().pages, profile.totals.copied_pages, "{name}");
                assert_eq!(tree.root().bytes, profile.totals.copied_bytes, "{name}");
                for (&cause, &pages) in &tree.root().causes {
                    assert_eq!(pages, profile.totals.by_cause.get(cause), "{name}, {cause}");
                }
                for node in &tree.nodes {
                    let own: u64 = node.own.values().sum();
                    let below: u64 = node.children.iter().map(|&at| tree.nodes[at].pages).sum();
                    assert_eq!(node.pages, own + below);
                    assert_eq!(node.pages, node.causes.values().sum::<u64>());
                }
            }
        }
    }
}
