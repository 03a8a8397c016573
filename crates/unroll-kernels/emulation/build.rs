//! Compiles the kernels' CUDA sources as C++. Without a C++ compiler there is no emulation, and tests that
//! need it say so.

use std::path::Path;

fn main() {
    let sources = Path::new("../cuda");
    for folder in [sources, Path::new("src")] {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    println!("cargo::rustc-check-cfg=cfg(emulated)");
    let built = cc::Build::new()
        .cpp(true)
        .std("c++17")
        .define("EMULATED", None)
        .include(sources)
        .include("src")
        .file("src/emulate.cpp")
        .opt_level(2)
        .flag_if_supported("-ffp-contract=off")
        .flag_if_supported("-Wall")
        .flag_if_supported("-Wextra")
        .try_compile("unroll_emulation");
    match built {
        Ok(()) => println!("cargo::rustc-cfg=emulated"),
        // A compiler that is there and refuses the kernels is an error, not a reason to skip their tests.
        Err(error) if cc::Build::new().cpp(true).try_get_compiler().is_ok_and(|c| runs(&c)) => {
            panic!("the kernels do not compile for a processor: {error}")
        }
        Err(error) => println!("cargo::warning=no C++ compiler, no emulation of kernels: {error}"),
    }
}

fn runs(compiler: &cc::Tool) -> bool {
    compiler.to_command().arg("--version").output().is_ok_and(|output| output.status.success())
}
