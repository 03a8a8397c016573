// What the kernels use of CUDA, under names that the emulation on a processor has too (emulation/src/emulate.h).
#pragma once

#ifdef EMULATED
#include "emulate.h"
#else

#define DEVICE __device__ __forceinline__
// One block on a multiprocessor: persistent kernels fill it.
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(256, 1) name
#define UNROLL(times) UNROLL_TEXT(unroll times)
#define UNROLL_TEXT(text) _Pragma(#text)

extern __shared__ float4 dynamic_shared_memory[];

/// The block's shared memory, aligned to 16 bytes.
DEVICE float *shared_memory() { return reinterpret_cast<float *>(dynamic_shared_memory); }

/// The same place in the shared memory of another block of the cluster.
DEVICE float *shared_of(float *place, unsigned rank) {
    return static_cast<float *>(__cluster_map_shared_rank(place, rank));
}

/// Waits for all threads of the cluster; what they wrote before is seen after.
DEVICE void cluster_barrier() {
    __cluster_barrier_arrive();
    __cluster_barrier_wait();
}

/// Reads what another block wrote: past the multiprocessor's own cache.
DEVICE float4 read_shared_with_others(const float4 *place) { return __ldcg(place); }
DEVICE float read_shared_with_others(const float *place) { return __ldcg(place); }

/// Waits until `count` blocks have arrived. All of them must be running.
DEVICE void team_barrier(unsigned *arrived, unsigned count) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(arrived, 1u);
        unsigned seen;
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(arrived) : "memory");
        } while (seen < count);
        __threadfence();
    }
    __syncthreads();
}

#endif
