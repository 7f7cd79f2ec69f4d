//! x
use crate::{aggregate::Aggregator, probe::Probe};
pub struct Progress;
impl Progress {
    pub fn new() -> Self {
        Self
    }
    pub fn update(&mut self, _: &mut Aggregator, _: &Probe) {}
    pub fn clear(&mut self) {}
}
