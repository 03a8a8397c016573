//! A GPU in software: the functions of NVIDIA's driver, of cuBLAS, cuRAND and cuDNN that this project's program
//! calls, for a processor. The program that is carried to a GPU runs on it as it is, `--device cuda` and all, and
//! with it everything between its own code and the kernels: how memory is asked for and given back, how kernels are
//! found, launched and recorded, with which arguments, blocks, clusters and shared memory.
//!
//! Kernels are run from the PTX that the program brings, translated to C++: a thread after another, where they wait
//! for each other as fibers, and two blocks at a time. All memory stands alone between pages that nobody may touch
//! and holds no numbers until it is written; what is launched beyond the device's limits, without a context or
//! copied to the host while a stream records, is refused as the driver refuses it; memory asked for while a stream
//! records, which the driver would give and this project never means, ends the program. What is wrong ends the
//! program with the kernel, the block and the thread.
//!
//! It says nothing about speed, nor about what only hardware shows: work is done when it is asked for, memory
//! written by one thread is seen by all at once, and a barrier of memory does nothing; numbers too small to be
//! normal are kept (`.ftz` is ignored) and approximate functions are exact, so that deviations are a little smaller
//! than on hardware; addresses of the host's are not told from the device's within kernels. cuDNN is what its
//! documentation says, which the library may not be.
//!
//! `scripts/simulate_gpu.sh COMMAND...` runs a command on it.
#![allow(unsafe_code)]

mod blas;
mod compile;
mod dnn;
mod driver;
mod image;
mod memory;
mod ptx;
mod rand;
#[cfg(test)]
mod tests;
mod translate;
mod work;
