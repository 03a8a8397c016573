//! Recurrent layers on GPUs, as one operation each.
//!
//! The input projection of all steps is one product. Then the recurrence, in one of three ways
//! ([`Way`]): a product and a kernel per step; one launch whose teams of blocks hold the recurrent
//! weights in shared memory and exchange states within a thread-block cluster; the same with teams of any
//! blocks, which exchange through global memory. Backward likewise, and then the gradients of weights and
//! input as one product each.
//!
//! All of this is written for a [`Machine`](super::machine::Machine): a GPU, or in tests an emulation that runs
//! the same kernels on a processor. The kernels are in `cuda/`.

mod choice;
mod floors;
mod host;
mod launch;
#[cfg(feature = "cudnn")]
pub(crate) mod library;
mod plan;

#[cfg(test)]
mod tests;

pub(crate) use choice::findings;
pub(crate) use floors::findings as floors;
#[cfg(feature = "cuda")]
pub(crate) use {
    choice::{backward, forward},
    host::{Arguments, Forward, Incoming, Kept, Lengths, Shape, Wanted},
    launch::Cell,
};
