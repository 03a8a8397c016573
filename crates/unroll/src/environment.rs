//! What this process runs on.

use unroll_kernels::gpu;
use unroll_results::{Environment, environment};

/// The environment of this process.
pub fn current(threads: usize) -> Environment {
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let (gpus, driver) = gpus();
    Environment {
        schema: environment::SCHEMA,
        unroll: env!("CARGO_PKG_VERSION").to_owned(),
        commit: known(env!("UNROLL_COMMIT")),
        dirty: env!("UNROLL_DIRTY") == "true",
        sources: env!("UNROLL_SOURCES").to_owned(),
        lock: env!("UNROLL_LOCK").to_owned(),
        rustc: env!("UNROLL_RUSTC").to_owned(),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        target_features: env!("UNROLL_TARGET_FEATURES").to_owned(),
        instruction_set: if unroll_kernels::enabled() {
            unroll_kernels::isa::Isa::current().name().to_owned()
        } else {
            "candle's operations".to_owned()
        },
        cpu: cpu_name(),
        cores: cores(),
        threads,
        cuda: cfg!(feature = "cuda"),
        gpus,
        driver,
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// Name of the GPU that a device's name stands for; `None` for the processor.
pub fn gpu_name(device: &str) -> Option<String> {
    let index = match device.split_once(':') {
        None if device == "cuda" => 0,
        Some(("cuda", index)) => index.parse().ok()?,
        _ => return None,
    };
    gpu::list().ok()?.names.into_iter().nth(index)
}

/// The GPU driver.
pub fn driver() -> Option<String> {
    gpus().1
}

/// Names of the GPUs by index, and the driver. The driver's library tells the GPUs that this process may
/// use; without CUDA in the program, NVIDIA's kernel module tells all.
fn gpus() -> (Vec<String>, Option<String>) {
    let (installed, module) = kernel_module();
    match gpu::list() {
        Ok(gpus) => {
            let cuda = format!("CUDA {}", gpus.cuda);
            (gpus.names, Some(module.map_or(cuda.clone(), |module| format!("{module}, {cuda}"))))
        }
        Err(_) => (installed, module),
    }
}

fn kernel_module() -> (Vec<String>, Option<String>) {
    let module = std::path::Path::new("/proc/driver/nvidia");
    let driver = std::fs::read_to_string(module.join("version")).ok();
    let driver = driver.and_then(|text| text.lines().next().map(|line| line.trim().to_owned()));
    let mut gpus = Vec::new();
    for entry in std::fs::read_dir(module.join("gpus")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path().join("information")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Model:"));
        gpus.extend(line.map(|name| name.trim().to_owned()));
    }
    gpus.sort();
    (gpus, driver)
}
