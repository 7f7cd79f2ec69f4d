//! The report for programs, compressed: what [`json`](super::json) writes, through gzip. It has a
//! twentieth of the size, and whatever reads JSON usually reads it as it is.

use std::io::{BufWriter, IntoInnerError, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::json::Json;
use super::{Format, Report};
use crate::profile::Profile;

pub(super) const FORMAT: Format = Format {
    name: "json.gz",
    extension: "json.gz",
    audience: "For programs",
    remark: "the same, compressed by gzip",
    is_binary: true,
    make: |_, _| Box::new(JsonGz),
};

/// Writes the profile as JSON, compressed.
#[derive(Clone, Copy, Debug)]
pub struct JsonGz;

impl Report for JsonGz {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        // JSON comes in pieces of a few bytes, and each call of the encoder costs some time.
        let mut out = BufWriter::new(GzEncoder::new(out, Compression::default()));
        let written = Json.write(profile, &mut out);
        let encoder = match written {
            Ok(()) => out.into_inner().map_err(IntoInnerError::into_error)?,
            Err(error) => {
                // What is still buffered would be tried again on drop.
                drop(out.into_parts());
                return Err(error);
            }
        };
        encoder.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::profile;
    use crate::profile::sample::sample;

    fn written(report: &dyn Report) -> Vec<u8> {
        let mut bytes = Vec::new();
        report.write(&sample(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn it_is_the_json_report_and_smaller() {
        let (plain, compressed) = (written(&Json), written(&JsonGz));
        let mut unpacked = Vec::new();
        GzDecoder::new(&compressed[..])
            .read_to_end(&mut unpacked)
            .unwrap();
        assert!(unpacked == plain);
        assert!(compressed.len() * 4 < plain.len());
        let read = |bytes: &[u8]| serde_json::to_value(profile::read(bytes).unwrap()).unwrap();
        assert_eq!(read(&compressed), read(&plain));
        // Nothing of this machine or this moment is in it.
        assert_eq!(compressed, written(&JsonGz));
    }
}
