// What `cuda/device.h` promises, on a processor: every thread of a launch is a fiber, all blocks run at
// once, and barriers wait for exactly the threads that CUDA's wait for.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>

#define DEVICE inline
#define UNROLL(times)

struct Dim {
    unsigned x, y, z;
};
extern thread_local Dim threadIdx, blockIdx, blockDim, gridDim;

struct float4 {
    float x, y, z, w;
};

using Kernel = std::function<void(const void *)>;

/// Makes a kernel known by its name, with the size of its argument.
void make_known(const char *name, size_t size, Kernel kernel);

struct Known {
    template <class Argument> Known(const char *name, void (*kernel)(const Argument)) {
        make_known(name, sizeof(Argument), [=](const void *argument) {
            kernel(*static_cast<const Argument *>(argument));
        });
    }
};
#define KERNEL(threads, blocks, name, argument)   \
    void name(const argument);                    \
    static const Known known_##name(#name, name); \
    void name(const argument)

float *shared_memory();
float *shared_of(float *place, unsigned rank);
void cluster_barrier();
void __syncthreads();
float __shfl_xor_sync(unsigned lanes, float value, int mask);
void team_barrier(unsigned *arrived, unsigned count);

inline float4 read_shared_with_others(const float4 *place) { return *place; }
inline float read_shared_with_others(const float *place) { return *place; }

float to_tf32(float value);
void multiply_tiles(float (&c)[4], const float (&a)[4], const float (&b)[2]);
