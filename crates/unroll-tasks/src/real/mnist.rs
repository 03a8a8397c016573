//! Sequential MNIST (Le et al. 2015) on a subset of 5000 images (LeCun et al. 1998), 28 x 28.

use serde::{Deserialize, Serialize};
use unroll_core::architecture::OptionDoc;

use super::images::{BY_HELP, By, ImageSet, PERMUTED_HELP};
use crate::options::{self, TaskOptions};
use crate::{Options, Result, Task, TaskEntry, TaskRequest};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: SET.name,
    summary: "handwritten digits of 28 x 28 pixels, 5000 of MNIST, read row by row or \
              pixel by pixel (Le et al. 2015)",
    options: options::list::<MnistOptions>,
    fixed_length,
    resolve: options::resolve::<MnistOptions>,
    build,
    files: &[SET.file],
};

pub(super) const SET: ImageSet =
    ImageSet { name: "mnist", file: "mnist_5k.csv.gz", side: 28, white: 255 };

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MnistOptions {
    by: By,
    permuted: bool,
}

impl Default for MnistOptions {
    fn default() -> Self {
        Self { by: By::Row, permuted: false }
    }
}

impl TaskOptions for MnistOptions {
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
    let options: MnistOptions = options::parse(given)?;
    Ok(Some(SET.length(options.by)))
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: MnistOptions = options::parse(request.options)?;
    SET.build(request, options.by, options.permuted)
}
