//! Options about data sets.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Options of `unroll data`.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// What to do
    #[command(subcommand)]
    pub command: DataCommand,
}

/// What `unroll data` does.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// List the sets: what they are, their size, licence and source, and where they are
    List(DataListArgs),
    /// Fetch sets into the data folder, through pip and apt-get, or out of files that are there
    #[command(after_help = "Exit code 1 when a set could not be fetched.\n\nExample:\n  \
        unroll data fetch reuters_r8 GunPoint\n  \
        unroll data fetch --from aeon-1.6.0-py3-none-any.whl")]
    Fetch(DataFetchArgs),
}

/// Options of `unroll data list`.
#[derive(Debug, Args)]
pub struct DataListArgs {
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `unroll data fetch`.
#[derive(Debug, Args)]
pub struct DataFetchArgs {
    /// Names of the sets [default: with `--from FILE`, all that come from it]
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "from"])]
    pub names: Vec<String>,
    /// All sets
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Wheel, Debian package or folder to take them from: nothing is downloaded
    #[arg(long, value_name = "FILE.whl|FILE.deb|DIR")]
    pub from: Option<PathBuf>,
}
