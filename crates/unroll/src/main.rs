//! The program `unroll`; see the library of the same name.

use std::process::ExitCode;

use unroll_kernels::memory::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

fn main() -> ExitCode {
    unroll::memory::count_with(&ALLOCATOR);
    unroll::commands::main()
}
