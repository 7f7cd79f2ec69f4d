//! stub
use super::table::Table;
/// x
pub struct Cache;
impl Cache {
    /// x
    pub fn open() -> Result<Self, String> {
        Err("stub".into())
    }
    /// x
    pub fn get(&self, _: &[u8; 32]) -> Option<Table> {
        None
    }
    /// x
    pub fn put(&self, _: &[u8; 32], _: &Table) -> std::io::Result<()> {
        Ok(())
    }
}
