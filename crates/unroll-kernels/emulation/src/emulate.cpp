#include "emulate.h"

#include <ucontext.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

thread_local Dim threadIdx, blockIdx, blockDim, gridDim;

#include "kernels.cu"

namespace {

std::map<std::string, std::pair<size_t, Kernel>> &kernels() {
    static std::map<std::string, std::pair<size_t, Kernel>> known;
    return known;
}

constexpr size_t STACK = 64 << 10;
/// Around shared memory and after it: must stay as it was.
constexpr size_t GUARD = 4096;
constexpr unsigned char UNTOUCHED = 0xa5;

struct Barrier {
    unsigned waiting = 0, passed = 0;
};

struct Fiber {
    ucontext_t context;
    Dim thread, block;
    std::unique_ptr<char[]> stack;
    bool done = false;
};

/// One launch.
struct Launch {
    const Kernel *kernel;
    const void *arguments;
    unsigned threads, cluster;
    size_t shared_bytes;
    std::vector<Fiber> fibers;
    std::vector<std::vector<unsigned char>> shared;
    std::vector<Barrier> blocks, clusters, warps;
    std::vector<float> lanes, tiles;
    ucontext_t scheduler;
    size_t current = 0, left = 0;
    uint64_t order = 0;
    bool progress = false;

    size_t warp() const { return current / threads * ((threads + 31) / 32) + threadIdx.x / 32; }
};

thread_local Launch *launch = nullptr;

void yield() { swapcontext(&launch->fibers[launch->current].context, &launch->scheduler); }

void wait_at(Barrier &barrier, unsigned count) {
    const unsigned mine = barrier.passed;
    if (++barrier.waiting == count) {
        barrier.waiting = 0;
        barrier.passed++;
        launch->progress = true;
        return;
    }
    while (barrier.passed == mine) yield();
}

void run_fiber() {
    (*launch->kernel)(launch->arguments);
    launch->fibers[launch->current].done = true;
    launch->progress = true;
    yield();
}

}  // namespace

void make_known(const char *name, size_t size, Kernel kernel) { kernels()[name] = {size, std::move(kernel)}; }

float *shared_memory() {
    return reinterpret_cast<float *>(launch->shared[blockIdx.y * gridDim.x + blockIdx.x].data() + GUARD);
}

float *shared_of(float *place, unsigned rank) {
    const unsigned first = blockIdx.x / launch->cluster * launch->cluster;
    auto *base = reinterpret_cast<unsigned char *>(shared_memory());
    const size_t offset = reinterpret_cast<unsigned char *>(place) - base;
    return reinterpret_cast<float *>(launch->shared[first + rank].data() + GUARD + offset);
}

void __syncthreads() { wait_at(launch->blocks[launch->current / launch->threads], launch->threads); }

void cluster_barrier() {
    wait_at(launch->clusters[blockIdx.x / launch->cluster], launch->cluster * launch->threads);
}

float __shfl_xor_sync(unsigned, float value, int mask) {
    const size_t warp = launch->warp();
    float *lanes = &launch->lanes[warp * 32];
    const unsigned lane = threadIdx.x % 32;
    lanes[lane] = value;
    wait_at(launch->warps[warp], 32);
    const float other = lanes[lane ^ mask];
    wait_at(launch->warps[warp], 32);
    return other;
}

float to_tf32(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits = (bits + 0x1000) & ~0x1fffu;
    std::memcpy(&value, &bits, 4);
    return value;
}

void multiply_tiles(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
    const size_t warp = launch->warp();
    float(*tiles)[6] = reinterpret_cast<float(*)[6]>(&launch->tiles[warp * 32 * 6]);
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 6; i++) {
        // The hardware reads no more bits than these: a number with more is an error of the kernel's.
        const float value = i < 4 ? a[i] : b[i - 4];
        tiles[lane][i] = to_tf32(value) == value ? value : NAN;
    }
    wait_at(launch->warps[warp], 32);
    const auto left = [&](unsigned row, unsigned k) { return tiles[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2]; };
    const auto right = [&](unsigned k, unsigned column) { return tiles[column * 4 + k % 4][4 + k / 4]; };
    for (int i = 0; i < 4; i++) {
        double sum = c[i];
        for (unsigned k = 0; k < 8; k++) sum += static_cast<double>(left(g + i / 2 * 8, k)) * right(k, 2 * t + i % 2);
        // Tensor cores cut off what does not fit (Fasi et al. 2021).
        const float near = static_cast<float>(sum);
        c[i] = std::fabs(static_cast<double>(near)) > std::fabs(sum) ? std::nextafterf(near, 0.0f) : near;
    }
    wait_at(launch->warps[warp], 32);
}

void team_barrier(unsigned *arrived, unsigned count) {
    __syncthreads();
    if (threadIdx.x == 0) {
        ++*arrived;
        launch->progress = true;
        while (*arrived < count) yield();
        launch->progress = true;
    }
    __syncthreads();
}

/// Runs a kernel. `seed` decides in which order threads run between barriers. Null, or what is wrong.
extern "C" const char *unroll_emulate(const char *name, unsigned grid_x, unsigned grid_y, unsigned threads,
                                      unsigned cluster, size_t shared_bytes, const void *arguments, size_t size,
                                      uint64_t seed) {
    const auto kernel = kernels().find(name);
    if (kernel == kernels().end()) return "there is no such kernel";
    if (size != kernel->second.first) return "the arguments have another size";
    if (threads % 32 != 0 || cluster == 0 || grid_x % cluster != 0) return "the launch is not in whole warps or clusters";
    Launch run;
    run.kernel = &kernel->second.second, run.arguments = arguments;
    run.threads = threads, run.cluster = cluster, run.shared_bytes = shared_bytes;
    const unsigned blocks = grid_x * grid_y;
    // Bytes that are not a number when read as one.
    run.shared.assign(blocks, std::vector<unsigned char>(shared_bytes + 2 * GUARD, 0xff));
    for (auto &memory : run.shared) {
        std::memset(memory.data(), UNTOUCHED, GUARD);
        std::memset(memory.data() + GUARD + shared_bytes, UNTOUCHED, GUARD);
    }
    run.blocks.resize(blocks), run.clusters.resize(blocks / cluster + 1), run.warps.resize(blocks * (threads / 32));
    run.lanes.resize(run.warps.size() * 32), run.tiles.resize(run.warps.size() * 32 * 6);
    run.fibers.resize(static_cast<size_t>(blocks) * threads);
    launch = &run;
    blockDim = {threads, 1, 1}, gridDim = {grid_x, grid_y, 1};
    run.left = run.fibers.size(), run.order = seed;
    for (size_t index = 0; index < run.fibers.size(); index++) {
        Fiber &fiber = run.fibers[index];
        const unsigned block = index / threads;
        fiber.thread = {static_cast<unsigned>(index % threads), 0, 0};
        fiber.block = {block % grid_x, block / grid_x, 0};
        fiber.stack.reset(new char[STACK]);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_fiber, 0);
    }
    const char *error = nullptr;
    // Some warps run until they wait for others, then all for a moment, then others: as far apart as barriers
    // let them be.
    bool all = true;
    uint64_t chosen = 0;
    while (run.left > 0 && error == nullptr) {
        run.progress = false;
        // Every round from another thread on, in either direction.
        run.order = run.order * 6364136223846793005u + 1442695040888963407u;
        const size_t count = run.fibers.size(), start = (run.order >> 33) % count;
        const bool backwards = run.order >> 63;
        for (size_t i = 0; i < count; i++) {
            run.current = (start + (backwards ? count - i : i)) % count;
            Fiber &fiber = run.fibers[run.current];
            if (fiber.done) continue;
            threadIdx = fiber.thread, blockIdx = fiber.block;
            if (!all && ((run.warp() + 1) * 0x9e3779b97f4a7c15u ^ chosen) % 5 > 1) continue;
            swapcontext(&run.scheduler, &fiber.context);
            if (fiber.done) run.left--;
        }
        if (all && !run.progress) error = "all threads wait: they do not meet at the same barriers";
        if (all || !run.progress) all = !all, chosen = run.order;
    }
    launch = nullptr;
    for (auto &memory : run.shared) {
        for (size_t i = 0; i < GUARD; i++) {
            if (memory[i] != UNTOUCHED || memory[GUARD + shared_bytes + i] != UNTOUCHED) {
                error = "written outside of shared memory";
            }
        }
    }
    return error;
}
