// What `cuda/device.h` promises, on a processor: every thread of a launch is a fiber, all blocks run at
// once, and barriers wait for exactly the threads that CUDA's wait for.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#define DEVICE inline
#define UNROLL(times)

struct Dim {
    unsigned x, y, z;
};
extern thread_local Dim threadIdx, blockIdx, blockDim, gridDim;

struct float4 {
    float x, y, z, w;
};

struct Sequence;

/// Makes a kernel known by its name.
struct Known {
    Known(const char *name, void (*kernel)(const Sequence));
};
#define KERNEL(name)                           \
    void name(const Sequence);                 \
    static const Known known_##name(#name, name); \
    void name

float *shared_memory();
float *shared_of(float *place, unsigned rank);
void cluster_barrier();
void __syncthreads();
float __shfl_xor_sync(unsigned lanes, float value, int mask);
void team_barrier(unsigned *arrived, unsigned count);

inline float4 read_shared_with_others(const float4 *place) { return *place; }
inline float read_shared_with_others(const float *place) { return *place; }
