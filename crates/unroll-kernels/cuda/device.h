// What the kernels use of CUDA, under names that the emulation on a processor has too (emulation/src/emulate.h).
#pragma once

#ifdef EMULATED
#include "emulate.h"
#else

#define DEVICE __device__ __forceinline__
// A kernel of one argument, for blocks of so many threads, so many of which a multiprocessor has room for.
#define KERNEL(threads, blocks, name, argument) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const argument)
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

/// A number with 10 bits of mantissa.
DEVICE float to_tf32(float value) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return __uint_as_float(bits);
}

/// `c += a b` by a warp: a (16, 8) and b (8, 8) of numbers with 10 bits of mantissa, c (16, 8). Lane `4 g + t` has
/// a at (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4), b at (t, g), (t + 4, g), and c at (g, 2 t), (g, 2 t + 1),
/// (g + 8, 2 t), (g + 8, 2 t + 1).
DEVICE void multiply_tiles(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

#endif
