//! Compiles the CUDA kernels, with the feature `cuda`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda();
}

/// To machine code for Hopper, and to PTX that drivers compile for what comes after.
#[cfg(feature = "cuda")]
fn cuda() {
    use std::path::PathBuf;
    use std::process::Command;

    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=cuda");
    let home = ["CUDA_HOME", "CUDA_PATH"].into_iter().find_map(std::env::var_os);
    let nvcc = match (std::env::var_os("NVCC"), home) {
        (Some(nvcc), _) => PathBuf::from(nvcc),
        (None, Some(home)) => PathBuf::from(home).join("bin/nvcc"),
        (None, None) => PathBuf::from("nvcc"),
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("kernels.fatbin");
    let status = Command::new(&nvcc)
        .args(["-std=c++17", "-O3", "-fatbin", "--compress-mode=size"])
        .args(["-gencode", "arch=compute_90,code=sm_90"])
        .args(["-gencode", "arch=compute_90,code=compute_90"])
        .arg("-o")
        .arg(&out)
        .arg("cuda/kernels.cu")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{} does not compile cuda/kernels.cu: {status}", nvcc.display()),
        Err(error) => panic!(
            "the feature cuda needs nvcc, and {} does not run: {error}; scripts/build_cuda.sh installs one",
            nvcc.display()
        ),
    }
}
