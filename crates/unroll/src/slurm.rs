//! Job scripts for Slurm: an array that runs the shards of an experiment, and a job that merges them.
//!
//! Slurm is the engine; nothing here schedules. Each task of the array runs one shard into a folder of
//! its own. A minute before its time is over (and when it is pre-empted) Slurm signals the task; it
//! writes checkpoints, ends with code 75 and asks to be queued again. The merging job follows when all
//! tasks have ended, however they did.

use std::path::{Path, PathBuf};
use std::process::Command;

use unroll_results::files;

/// What is submitted.
#[derive(Debug, Clone)]
pub struct Request {
    /// The program's own path.
    pub program: PathBuf,
    /// Experiment file.
    pub file: PathBuf,
    /// Options of `unroll run` for every shard, as they are typed.
    pub run_options: Vec<String>,
    /// Result folder; shards are below it, in `shards/`.
    pub out: PathBuf,
    /// Name of the jobs.
    pub name: String,
    /// Tasks of the array.
    pub tasks: usize,
    /// Tasks at the same time, if limited.
    pub at_once: Option<usize>,
    /// Time limit of a task, as Slurm writes it.
    pub time: String,
    /// Cores of a task.
    pub cpus: usize,
    /// Further options of `sbatch` for the array: `--partition=...`.
    pub sbatch: Vec<String>,
}

/// The two job scripts.
#[derive(Debug, Clone)]
pub struct Scripts {
    /// The array.
    pub array: String,
    /// The merging job.
    pub merge: String,
}

/// Why nothing was submitted.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    /// A script could not be written.
    #[error(transparent)]
    Results(#[from] unroll_results::Error),
    /// There is no `sbatch`.
    #[error(
        "`sbatch` cannot be run: {0}. Is this a machine that submits to Slurm? --print shows the scripts"
    )]
    NoSbatch(std::io::Error),
    /// `sbatch` refused.
    #[error("`sbatch` refused {script}: {message}")]
    Refused {
        /// The script.
        script: String,
        /// What it said.
        message: String,
    },
}

/// Text as one word of a shell command.
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn quote_path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

impl Request {
    /// Where the scripts and the output of the jobs go.
    pub fn folder(&self) -> PathBuf {
        self.out.join("slurm")
    }

    /// The job scripts.
    pub fn scripts(&self) -> Scripts {
        let Self { tasks, time, cpus, name, .. } = self;
        let program = quote_path(&self.program);
        let out = quote_path(&self.out);
        let log = self.folder();
        let array = match self.at_once {
            Some(limit) => format!("1-{tasks}%{limit}"),
            None => format!("1-{tasks}"),
        };
        let options: String =
            self.run_options.iter().map(|option| format!(" {}", quote(option))).collect();
        let further: String =
            self.sbatch.iter().map(|option| format!("#SBATCH {option}\n")).collect();
        let array = format!(
            "#!/bin/bash\n\
             #SBATCH --job-name={name}\n\
             #SBATCH --array={array}\n\
             #SBATCH --time={time}\n\
             #SBATCH --cpus-per-task={cpus}\n\
             #SBATCH --requeue\n\
             #SBATCH --open-mode=append\n\
             #SBATCH --signal=B:USR1@60\n\
             #SBATCH --output={log}/%A_%a.log\n\
             {further}\
             \n\
             # The number of shards stands here: Slurm's own count is wrong when only some tasks of an\n\
             # array are submitted again.\n\
             {program} run {file}{options} --shard \"$SLURM_ARRAY_TASK_ID/{tasks}\" --threads {cpus} \\\n    \
             --out {out}/\"shards/$SLURM_ARRAY_TASK_ID-of-{tasks}\" &\n\
             run=$!\n\
             # Slurm signals this shell alone. The run writes checkpoints and ends with code 75.\n\
             trap 'kill -USR1 \"$run\" 2>/dev/null' USR1 TERM\n\
             # A signal ends `wait` too.\n\
             while wait \"$run\"; code=$?; kill -0 \"$run\" 2>/dev/null; do :; done\n\
             if [ \"$code\" = 75 ]; then\n    \
             scontrol requeue \"${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID\"\n\
             fi\n\
             exit \"$code\"\n",
            log = log.display(),
            file = quote_path(&self.file),
        );
        let merge = format!(
            "#!/bin/bash\n\
             #SBATCH --job-name={name}-merge\n\
             #SBATCH --time=00:30:00\n\
             #SBATCH --cpus-per-task=1\n\
             #SBATCH --output={log}/merge-%j.log\n\
             {further}\
             \n\
             {program} merge {out}/shards/*-of-{tasks} --out {out}\n",
            log = log.display(),
        );
        Scripts { array, merge }
    }

    /// Writes the scripts and submits them; the numbers of the two jobs.
    ///
    /// # Errors
    /// [`SlurmError`].
    pub fn submit(&self) -> Result<(String, String), SlurmError> {
        let scripts = self.scripts();
        let folder = self.folder();
        files::create_dir(&folder)?;
        let (array, merge) = (folder.join("array.sbatch"), folder.join("merge.sbatch"));
        files::write(&array, scripts.array.as_bytes())?;
        files::write(&merge, scripts.merge.as_bytes())?;
        let array = sbatch(&array, &[])?;
        let after = format!("--dependency=afterany:{array}");
        let merge = sbatch(&merge, &[after])?;
        Ok((array, merge))
    }
}

fn sbatch(script: &Path, options: &[String]) -> Result<String, SlurmError> {
    let output = Command::new("sbatch")
        .arg("--parsable")
        .args(options)
        .arg(script)
        .output()
        .map_err(SlurmError::NoSbatch)?;
    if !output.status.success() {
        return Err(SlurmError::Refused {
            script: script.display().to_string(),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    // `number` or `number;cluster`.
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim().split(';').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for text in ["a b", "it's", "$HOME", "", "axes.seed=[0, 1]", "plain-1.0"] {
            let script = format!("printf %s {}", quote(text));
            let output = Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }

    #[test]
    fn scripts_are_bash_and_name_every_shard() {
        let request = Request {
            program: "/opt/my tools/unroll".into(),
            file: "adding.toml".into(),
            run_options: vec!["--set".into(), "axes.seed=[0, 1]".into()],
            out: "results/adding".into(),
            name: "adding".into(),
            tasks: 4,
            at_once: Some(2),
            time: "01:00:00".into(),
            cpus: 2,
            sbatch: vec!["--partition=debug".into()],
        };
        let Scripts { array, merge } = request.scripts();
        for script in [&array, &merge] {
            let checked = Command::new("bash").args(["-n", "-c", script]).status().unwrap();
            assert!(checked.success(), "{script}");
            assert!(script.contains("#SBATCH --partition=debug\n"));
        }
        assert!(array.contains("--array=1-4%2") && array.contains("--requeue"), "{array}");
        assert!(array.contains("--set 'axes.seed=[0, 1]'"), "{array}");
        assert!(merge.contains("merge results/adding/shards/*-of-4"), "{merge}");
    }
}
