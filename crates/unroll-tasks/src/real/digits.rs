//! UCI optical digits (Alpaydin & Kaynak 1998), 8 x 8, read pixel by pixel.

use serde::{Deserialize, Serialize};
use unroll_core::architecture::OptionDoc;

use super::images::{BY_HELP, By, ImageSet, PERMUTED_HELP};
use crate::options::{self, TaskOptions};
use crate::{Options, Result, Task, TaskEntry, TaskRequest};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: SET.name,
    summary: "handwritten digits of 8 x 8 pixels, read pixel by pixel or row by row \
              (UCI optical digits)",
    options: options::list::<DigitsOptions>,
    fixed_length,
    resolve: options::resolve::<DigitsOptions>,
    build,
    files: &[SET.file],
};

const SET: ImageSet = ImageSet { name: "digits", file: "digits_8x8.csv.gz", side: 8, white: 16 };

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DigitsOptions {
    by: By,
    permuted: bool,
}

impl Default for DigitsOptions {
    fn default() -> Self {
        Self { by: By::Pixel, permuted: false }
    }
}

impl TaskOptions for DigitsOptions {
    const TASK: &'static str = SET.name;
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc { name: "by", help: BY_HELP },
        OptionDoc { name: "permuted", help: PERMUTED_HELP },
    ];

    fn validate(&self) -> Result<()> {
        Ok(())
    }
}

fn fixed_length(given: &Options) -> Result<Option<usize>> {
    let options: DigitsOptions = options::parse(given)?;
    Ok(Some(SET.length(options.by)))
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: DigitsOptions = options::parse(request.options)?;
    SET.build(request, options.by, options.permuted)
}
