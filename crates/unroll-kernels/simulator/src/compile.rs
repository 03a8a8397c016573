//! From PTX to machine code: through C++ and the C++ compiler, kept in a folder for the next time.

use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ptx::Module;
use crate::translate;

const RUNTIME: &str = include_str!("runtime.h");
const FLAGS: [&str; 12] = [
    "-std=c++17",
    "-O1",
    "-w",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fno-exceptions",
    "-mfma",
    "-mf16c",
];

/// As `Dim` in runtime.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Dim {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) z: u32,
}

impl Dim {
    pub(crate) fn count(self) -> u64 {
        u64::from(self.x) * u64::from(self.y) * u64::from(self.z)
    }
}

/// As `LaunchOf` in runtime.h.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct LaunchOf {
    pub(crate) kernel: *const c_char,
    pub(crate) grid: Dim,
    pub(crate) threads: Dim,
    pub(crate) cluster: u32,
    pub(crate) together: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) fibers: u32,
    pub(crate) order: u64,
    pub(crate) parameters: *const u8,
}

type Run = unsafe extern "C" fn(*const LaunchOf);
pub(crate) type Where = unsafe extern "C" fn(*mut c_char, usize);

/// A kernel that can be run.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) name: CString,
    pub(crate) kernel: translate::Kernel,
    pub(crate) run: Run,
    pub(crate) tell: Where,
}

fn folder() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    cache.unwrap_or_else(std::env::temp_dir).join("unroll-simulated-gpu")
}

/// Translates and compiles a kernel; gives what was compiled before where it is the same.
pub(crate) fn compile(module: &Module, name: &str) -> Result<Compiled, String> {
    let kernel = translate::kernel(module, name)?;
    let code = format!("{RUNTIME}\n{}", kernel.code);
    let folder = folder();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let made_of = format!("{compiler} {}\n{code}", FLAGS.join(" "));
    let stem = format!("{name}-{}", &blake3::hash(made_of.as_bytes()).to_hex()[..16]);
    let library = folder.join(format!("{stem}.so"));
    if !library.exists() {
        std::fs::create_dir_all(&folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        // Another process, or another thread of this one, may do the same at the same time.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let count = MADE.fetch_add(1, Ordering::Relaxed);
        let own = format!("{stem}.{}.{count}", std::process::id());
        let (source, built) = (folder.join(format!("{own}.cpp")), folder.join(format!("{own}.so")));
        std::fs::write(&source, code).map_err(|error| format!("{}: {error}", source.display()))?;
        let output = Command::new(&compiler)
            .args(FLAGS)
            .arg("-o")
            .args([&built, &source])
            .output()
            .map_err(|error| format!("{compiler}: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: Vec<_> = said.lines().take(20).collect();
            return Err(format!(
                "{name}: {} does not compile:\n{}",
                source.display(),
                said.join("\n")
            ));
        }
        std::fs::rename(&built, &library)
            .map_err(|error| format!("{}: {error}", built.display()))?;
        if std::env::var_os("UNROLL_SIMULATED_KEEP").is_none() {
            // Only a copy of what can be made again.
            let _ = std::fs::remove_file(&source);
        }
    }
    let error = |error: libloading::Error| format!("{}: {error}", library.display());
    // SAFETY: what was compiled above has no code that runs when it is loaded; it is never unloaded.
    let (run, tell) = unsafe {
        let library = libloading::Library::new(&library).map_err(error)?;
        let run = *library.get::<Run>(b"unroll_run").map_err(error)?;
        let tell = *library.get::<Where>(b"unroll_where").map_err(error)?;
        std::mem::forget(library);
        (run, tell)
    };
    let name = CString::new(name).map_err(|error| error.to_string())?;
    Ok(Compiled { name, kernel, run, tell })
}
