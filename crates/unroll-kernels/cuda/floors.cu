// What nothing can be faster than: launches that do nothing, barriers without work, memory that is only read.

#include "device.h"

/// The same fields in the same order in src/gpu/recurrent/floors.rs.
struct Floor {
    const float4 *from;
    float *to;
    unsigned *arrived;  // per team, zero
    int count;          // of `from`
    int repeats;
    int ranks;
    int unused;
};

#define FLOOR_KERNEL(name) KERNEL(256, 1, name, Floor p)

FLOOR_KERNEL(nothing) {
    if (p.repeats > 0) *p.to = 0.0f;
}

FLOOR_KERNEL(barriers_cluster) {
    for (int i = 0; i < p.repeats; i++) cluster_barrier();
}

FLOOR_KERNEL(barriers_grid) {
    unsigned *arrived = p.arrived + blockIdx.x / p.ranks;
    for (int i = 0; i < p.repeats; i++) team_barrier(arrived, static_cast<unsigned>(p.ranks) * (i + 1));
}

/// Reads past the multiprocessors' own caches; every thread writes a sum, so that nothing is left out.
FLOOR_KERNEL(read_memory) {
    const int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    float sum = 0.0f;
    for (int i = 0; i < p.repeats; i++) {
        UNROLL(8)
        for (int index = thread; index < p.count; index += threads) {
            const float4 value = read_shared_with_others(p.from + index);
            sum += (value.x + value.y) + (value.z + value.w);
        }
    }
    p.to[thread] = sum;
}
