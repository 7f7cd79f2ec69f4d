//! stub
pub struct Screen; impl Screen { pub fn of_a_file()->Self{Self} pub fn of_stdout()->Self{Self} }
pub struct Text { pub options: crate::options::TextOptions, pub screen: Screen }
impl super::Report for Text { fn write(&self, p:&crate::profile::Profile, out:&mut dyn std::io::Write)->anyhow::Result<()> { writeln!(out,"{:?}", p.totals)?; Ok(()) } }
