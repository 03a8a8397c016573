//! The program `unroll`; see the library of the same name.

use std::process::ExitCode;

use unroll::memory::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new(mimalloc::MiMalloc);

fn main() -> ExitCode {
    // First: it works only while there are no other threads.
    unroll_kernels::threads::keep_candle_to_one_thread();
    unroll_kernels::memory::keep_freed_pages();
    unroll::memory::count_with(&ALLOCATOR);
    unroll::commands::main()
}
