// What the C++ that kernels are translated to calls: registers, arithmetic as PTX defines it, threads as fibers,
// barriers. Compiled together with each kernel (see translate.rs).
#include <immintrin.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using f32 = float;
using f64 = double;

/// 16-bit numbers by their bits; arithmetic is f32's, rounded once.
struct f16 {
    u16 bits;
    f16() = default;
    explicit f16(f32 value) : bits(_cvtss_sh(value, 0)) {}
    operator f32() const { return _cvtsh_ss(bits); }
};
struct bf16 {
    u16 bits;
    bf16() = default;
    explicit bf16(f32 value) {
        u32 all;
        memcpy(&all, &value, 4);
        bits = value != value ? 0x7fff : (all + 0x7fff + (all >> 16 & 1)) >> 16;
    }
    operator f32() const {
        const u32 all = static_cast<u32>(bits) << 16;
        f32 value;
        memcpy(&value, &all, 4);
        return value;
    }
};

// Registers hold bits; an instruction says what they are.

template <class To, class From> inline To as(From from) {
    To to{};
    memcpy(&to, &from, sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
    return to;
}
template <class From> struct Wider { using type = u64; };
template <> struct Wider<s8> { using type = s64; };
template <> struct Wider<s16> { using type = s64; };
template <> struct Wider<s32> { using type = s64; };
/// Into a register that is as wide as the value, or wider: then signed numbers keep their sign.
template <class To, class From> inline void put(To &to, From from) {
    if (sizeof(To) > sizeof(From)) {
        typename Wider<From>::type wide;
        if (sizeof(From) == 1) wide = as<u8>(from);
        if (sizeof(From) == 2) wide = as<u16>(from);
        if (sizeof(From) == 4) wide = as<u32>(from);
        if (sizeof(typename Wider<From>::type) == 8 && static_cast<typename Wider<From>::type>(-1) < 0) {
            const int shift = 64 - 8 * sizeof(From);
            wide = static_cast<s64>(static_cast<u64>(wide) << shift) >> shift;
        }
        to = as<To>(wide);
    } else {
        to = as<To>(from);
    }
}
inline f32 bits32(u32 bits) { return as<f32>(bits); }
inline f64 bits64(u64 bits) { return as<f64>(bits); }

// Threads.

struct Dim {
    u32 x, y, z;
};
struct Thread;

struct Barrier {
    u32 waiting = 0;
    volatile u32 passed = 0;
};

constexpr int WARP = 32;
struct Tiles {
    f32 left[16][8], right[8][8];  // the right one transposed
};
/// What a lane shows to the others of its warp; two sets, used by turns, so that one meeting is enough.
struct Lanes {
    u64 values[2][WARP];
    Tiles tiles[2];
    u32 alive;
    Barrier barrier;
};

struct Block {
    Dim index;
    u8 *shared;
    u32 shared_bytes;
    bool begun;
    u32 alive;
    Barrier barriers[16];
    Lanes *warps;
};

struct Cluster {
    u32 alive;
    Barrier barrier;
    Block *first;
    u32 size;
};

struct Worker {
    Thread *running;
    void *stack_pointer;
};

struct Thread {
    Dim tid, ntid, ctaid, nctaid;
    u32 lane;
    Block *block;
    Lanes *warp;
    Cluster *cluster;
    u32 turn;  // meetings of the warp so far
    u32 rank;  // of the block in its cluster
    u32 arrived;
    bool has_arrived;
    // Fibers only.
    Worker *worker;
    void *stack_pointer;
    volatile u32 *wait_for;
    u32 wait_while;
    bool spins;  // whether it looks for a change again and again
    bool done;
};

[[noreturn]] void fail(const Thread &t, const char *what);
void yield(Thread &t);
/// Lets others go on before memory that they may change is read again.
inline void spin(Thread &t) {
    t.spins = true;
    yield(t);
}

inline void wait_until_passed(Thread &t, Barrier &barrier, u32 mine) {
    while (barrier.passed == mine) {
        t.wait_for = &barrier.passed, t.wait_while = mine;
        yield(t);
    }
}
inline void pass(Barrier &barrier) {
    barrier.waiting = 0;
    barrier.passed = barrier.passed + 1;
}
inline void meet(Thread &t, Barrier &barrier, u32 count) {
    const u32 mine = barrier.passed;
    if (++barrier.waiting >= count) return pass(barrier);
    wait_until_passed(t, barrier, mine);
}
inline Barrier &barrier_of(Thread &t, u32 which) {
    if (which >= 16) fail(t, "there is no such barrier");
    return t.block->barriers[which];
}
inline void bar_sync(Thread &t, u32 which) { meet(t, barrier_of(t, which), t.block->alive); }
inline void bar_sync(Thread &t, u32 which, u32 count) { meet(t, barrier_of(t, which), count); }
inline void cluster_arrive(Thread &t) {
    if (t.has_arrived) fail(t, "arrives at the cluster's barrier twice");
    t.has_arrived = true;
    t.arrived = t.cluster->barrier.passed;
    if (++t.cluster->barrier.waiting >= t.cluster->alive) pass(t.cluster->barrier);
}
inline void cluster_wait(Thread &t) {
    if (!t.has_arrived) fail(t, "waits at the cluster's barrier without having arrived");
    t.has_arrived = false;
    wait_until_passed(t, t.cluster->barrier, t.arrived);
}

/// Waits for the living lanes of the warp that `mask` names: all of them, or the kernel is outside of what is known.
inline u32 meet_warp(Thread &t, u32 mask) {
    if (!(mask >> t.lane & 1)) fail(t, "a lane takes part that is not in its mask");
    const u32 all = t.warp->alive & mask;
    if (all != t.warp->alive) fail(t, "a part of a warp meets, which is not simulated");
    meet(t, t.warp->barrier, __builtin_popcount(all));
    return all;
}

enum Shuffle { BFLY, DOWN, UP, IDX };
template <class T> inline u32 shuffle(Thread &t, Shuffle kind, T value, u32 b, u32 c, u32 mask, bool &valid) {
    u64 *lanes = t.warp->values[t.turn++ & 1];
    lanes[t.lane] = as<u32>(value);
    const u32 alive = meet_warp(t, mask);
    const u32 bound = c & 31, segment = c >> 8 & 31, top = (t.lane & segment) | (bound & ~segment);
    u32 from = t.lane;
    b &= 31;
    switch (kind) {
        case BFLY: from = t.lane ^ b, valid = from <= top; break;
        case DOWN: from = t.lane + b, valid = from <= top; break;
        case UP: from = t.lane - b, valid = static_cast<s32>(from) >= static_cast<s32>(top); break;
        case IDX: from = (t.lane & segment) | (b & ~segment), valid = from <= top; break;
    }
    if (!valid) from = t.lane;
    // What a lane shows that is not there is not defined.
    return alive >> from & 1 ? static_cast<u32>(lanes[from]) : 0x7fc0deadu;
}
inline u32 ballot(Thread &t, bool value, u32 mask) {
    u64 *lanes = t.warp->values[t.turn++ & 1];
    lanes[t.lane] = value;
    const u32 alive = meet_warp(t, mask);
    u32 all = 0;
    for (int lane = 0; lane < WARP; lane++) all |= (alive >> lane & 1 && lanes[lane]) << lane;
    return all;
}
inline void warp_sync(Thread &t, u32 mask) {
    t.turn++;
    meet_warp(t, mask);
}

inline f32 rna_tf32(f32 value) { return value != value ? value : as<f32>((as<u32>(value) + 0x1000u) & ~0x1fffu); }

/// `d = a b + c` of tiles of 16 x 8, 8 x 8 numbers, which tensor cores read 10 bits of mantissa of.
inline void mma_16x8x8_tf32(Thread &t, f32 (&d)[4], const f32 (&a)[4], const f32 (&b)[2], const f32 (&c)[4]) {
    Tiles &tiles = t.warp->tiles[t.turn++ & 1];
    const u32 g = t.lane / 4, q = t.lane % 4;
    const auto read = [](f32 value) { return as<f32>(as<u32>(value) & ~0x1fffu); };
    for (u32 i = 0; i < 4; i++) tiles.left[g + i % 2 * 8][q + i / 2 * 4] = read(a[i]);
    for (u32 i = 0; i < 2; i++) tiles.right[g][q + i * 4] = read(b[i]);
    if (meet_warp(t, 0xffffffffu) != 0xffffffffu) fail(t, "tensor cores need whole warps");
    for (u32 i = 0; i < 4; i++) {
        const f32 *left = tiles.left[g + i / 2 * 8], *right = tiles.right[2 * q + i % 2];
        f64 sum = c[i];
        for (u32 k = 0; k < 8; k++) sum += static_cast<f64>(left[k]) * right[k];
        // Tensor cores cut off what does not fit (Fasi et al. 2021).
        const f32 near = static_cast<f32>(sum);
        d[i] = fabs(static_cast<f64>(near)) > fabs(sum) ? nextafterf(near, 0.0f) : near;
    }
}

// Memory.

inline u64 cvta_shared(const Thread &t, u64 offset) {
    return reinterpret_cast<u64>(t.block->shared + static_cast<u32>(offset));
}
/// So many bytes of the block's own.
inline u64 shared_at(const Thread &t, u64 offset, u32 size) {
    if (u64(static_cast<u32>(offset)) + size > t.block->shared_bytes) fail(t, "outside of shared memory");
    return cvta_shared(t, offset);
}
inline u64 cvta_to_shared(const Thread &t, u64 address) {
    return address - reinterpret_cast<u64>(t.block->shared);
}
inline u64 mapa(const Thread &t, u64 address, u32 rank) {
    if (rank >= t.cluster->size) fail(t, "there is no such block in the cluster");
    if (cvta_to_shared(t, address) >= t.block->shared_bytes) fail(t, "not an address of the block's own shared memory");
    return reinterpret_cast<u64>(t.cluster->first[rank].shared) + cvta_to_shared(t, address);
}
template <class T> inline T load(u64 address) {
    T value;
    memcpy(&value, reinterpret_cast<const void *>(address), sizeof(T));
    return value;
}
template <class T> inline void store(u64 address, T value) {
    memcpy(reinterpret_cast<void *>(address), &value, sizeof(T));
}
/// Vectors, and numbers, lie at multiples of their size.
inline u64 aligned(const Thread &t, u64 address, u32 size) {
    if (address % size != 0) fail(t, "an address is not aligned");
    return address;
}

// Arithmetic.

template <class T> inline T cut(T near, long double exact) {
    return __builtin_fabsl(near) > __builtin_fabsl(exact) ? nextafter(near, T(0)) : near;
}
inline f32 cut(f32 near, f64 exact) { return fabs(f64(near)) > fabs(exact) ? nextafterf(near, 0.0f) : near; }
inline f32 add_rz(f32 a, f32 b) { return cut(f32(f64(a) + b), f64(a) + f64(b)); }
inline f64 add_rz(f64 a, f64 b) { return cut<f64>(a + b, static_cast<long double>(a) + b); }
inline f32 fma_rm(f32 a, f32 b, f32 c) {
    const f64 exact = f64(a) * b + c;
    const f32 near = f32(exact);
    return f64(near) > exact ? nextafterf(near, -INFINITY) : near;
}
inline f32 fma_rn(f32 a, f32 b, f32 c) { return __builtin_fmaf(a, b, c); }
inline f64 fma_rn(f64 a, f64 b, f64 c) { return __builtin_fma(a, b, c); }
inline f16 fma_rn(f16 a, f16 b, f16 c) { return f16(f32(f64(f32(a)) * f32(b) + f32(c))); }
inline bf16 fma_rn(bf16 a, bf16 b, bf16 c) { return bf16(f32(f64(f32(a)) * f32(b) + f32(c))); }
template <class T> inline T minimum(T a, T b) { return b < a ? b : a; }
template <class T> inline T maximum(T a, T b) { return a < b ? b : a; }
inline f32 minimum(f32 a, f32 b) { return fminf(a, b); }
inline f32 maximum(f32 a, f32 b) { return fmaxf(a, b); }
inline f64 minimum(f64 a, f64 b) { return fmin(a, b); }
inline f64 maximum(f64 a, f64 b) { return fmax(a, b); }
template <class T> inline bool is_nan(T a) { return a != a; }
template <class T> inline T divide(T a, T b) { return b == 0 ? T(-1) : b == T(-1) && a < 0 ? T(-a) : T(a / b); }
template <class T> inline T remainder_of(T a, T b) { return b == 0 ? a : b == T(-1) && a < 0 ? T(0) : T(a % b); }
template <class T> inline T shift_left(T a, u32 by) { return by >= 8 * sizeof(T) ? 0 : T(a << by); }
template <class T> inline T shift_right(T a, u32 by) {
    const u32 most = 8 * sizeof(T) - 1;
    return by > most ? (a < 0 ? T(-1) : T(0)) : T(a >> by);
}
inline u32 mul_hi(u32 a, u32 b) { return u64(a) * b >> 32; }
inline s32 mul_hi(s32 a, s32 b) { return s64(a) * b >> 32; }
inline u64 mul_hi(u64 a, u64 b) { return static_cast<unsigned __int128>(a) * b >> 64; }
inline s64 mul_hi(s64 a, s64 b) { return static_cast<__int128>(a) * b >> 64; }
template <class T> inline T bit_insert(T from, T into, u32 at, u32 length) {
    at &= 255, length &= 255;
    if (at >= 8 * sizeof(T) || length == 0) return into;
    const T ones = length >= 8 * sizeof(T) ? T(-1) : T((T(1) << length) - 1);
    return (into & ~(ones << at)) | (from & ones) << at;
}
template <class T> inline T bit_extract(T from, u32 at, u32 length) {
    at &= 255, length &= 255;
    if (at >= 8 * sizeof(T) || length == 0) return 0;
    const T ones = length >= 8 * sizeof(T) ? T(-1) : T((T(1) << length) - 1);
    return from >> at & ones;
}
inline u32 permute(u32 a, u32 b, u32 selector) {
    const u64 bytes = u64(b) << 32 | a;
    u32 out = 0;
    for (int i = 0; i < 4; i++) {
        const u32 s = selector >> 4 * i & 15;
        u32 byte = bytes >> 8 * (s & 7) & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0;
        out |= byte << 8 * i;
    }
    return out;
}
/// From a float to an integer: towards zero, the nearest, down or up by the caller; out of range to the end of it.
template <class To, class From> inline To to_integer(From value) {
    if (value != value) return sizeof(From) == 8 || sizeof(To) == 8 ? To(1) << (8 * sizeof(To) - 1) : To(0);
    const long double wide = value;
    const long double least = static_cast<To>(-1) < 0 ? -__builtin_ldexpl(1, 8 * sizeof(To) - 1) : 0;
    const long double most = __builtin_ldexpl(1, 8 * sizeof(To) - (static_cast<To>(-1) < 0 ? 1 : 0)) - 1;
    if (wide <= least) return static_cast<To>(least);
    if (wide >= most) return static_cast<To>(most);
    return static_cast<To>(wide);
}
template <class T> inline T saturate(T value) { return value != value || value < 0 ? T(0) : value > 1 ? T(1) : value; }
template <int BYTES> struct Bits;
template <> struct Bits<2> { using type = u16; };
template <> struct Bits<4> { using type = u32; };
template <> struct Bits<8> { using type = u64; };
/// Blocks run on two threads of the processor's.
template <class T> inline T atomic_add(u64 address, T value) {
    using B = typename Bits<sizeof(T)>::type;
    B *place = reinterpret_cast<B *>(address), old = __atomic_load_n(place, __ATOMIC_SEQ_CST);
    while (!__atomic_compare_exchange_n(place, &old, as<B>(T(as<T>(old) + value)), false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
    }
    return as<T>(old);
}
[[noreturn]] inline void assert_fail(const Thread &t, const u8 *message) {
    fail(t, reinterpret_cast<const char *>(load<u64>(reinterpret_cast<u64>(message))));
}

// The launch.

struct LaunchOf {
    const char *kernel;
    Dim grid, threads;
    u32 cluster;       // blocks, side by side in x
    u32 together;      // whether all blocks run at once
    u32 shared_bytes;  // static and dynamic
    u32 fibers;        // whether threads meet
    u64 order;         // of threads between barriers
    const u8 *parameters;
};

extern "C" void kernel(Thread &t, const u8 *parameters);

namespace {

const LaunchOf *launch = nullptr;
/// Of this thread of the processor's.
thread_local Worker *here = nullptr;

constexpr size_t STACK = 256 << 10, PAGE = 4096;

}  // namespace

void fail(const Thread &t, const char *what) {
    fprintf(stderr, "simulated GPU: %s: block (%u, %u, %u), thread (%u, %u, %u): %s\n", launch->kernel, t.ctaid.x,
            t.ctaid.y, t.ctaid.z, t.tid.x, t.tid.y, t.tid.z, what);
    fflush(stderr);
    abort();
}

// Leaves one stack for another; what a called function must keep is on the stack that is left.
__asm__(
    ".text\n.p2align 4\n.type unroll_switch,@function\nunroll_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp,(%rdi)\n  movq %rsi,%rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
    ".size unroll_switch,.-unroll_switch\n");
extern "C" void unroll_switch(void **from, void *to) __attribute__((visibility("hidden")));

void yield(Thread &t) { unroll_switch(&t.stack_pointer, t.worker->stack_pointer); }

/// Bytes of a block's shared memory in whole pages, and those before it.
static u64 shared_pages(const Block &block) { return (block.shared_bytes + PAGE - 1) / PAGE * PAGE; }
static u8 *shared_begin(const Block &block) { return block.shared - (shared_pages(block) - block.shared_bytes) / 16 * 16; }

static void leave(Thread &t) {
    // Those who wait do not wait for the dead.
    Block &block = *t.block;
    block.alive--;
    // Others of the cluster have no part any more in the memory of a block that has ended.
    if (block.alive == 0 && t.cluster->size > 1 && block.shared_bytes > 0) {
        mprotect(shared_begin(block), shared_pages(block), PROT_NONE);
    }
    for (Barrier &barrier : block.barriers) {
        if (barrier.waiting > 0 && barrier.waiting >= block.alive) pass(barrier);
    }
    t.warp->alive &= ~(1u << t.lane);
    if (t.warp->barrier.waiting > 0 && t.warp->barrier.waiting >= static_cast<u32>(__builtin_popcount(t.warp->alive))) {
        pass(t.warp->barrier);
    }
    t.cluster->alive--;
    if (t.cluster->barrier.waiting > 0 && t.cluster->barrier.waiting >= t.cluster->alive) pass(t.cluster->barrier);
}

static void run_fiber() {
    Thread &t = *here->running;
    kernel(t, launch->parameters);
    leave(t);
    t.done = true;
    yield(t);
    abort();
}

/// Memory between pages that nobody may touch; filled with bytes that are no number.
static u8 *guarded(size_t bytes) {
    const size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
    u8 *all = static_cast<u8 *>(mmap(nullptr, pages + 2 * PAGE, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (all == MAP_FAILED) {
        fprintf(stderr, "simulated GPU: no memory for %zu bytes\n", pages);
        abort();
    }
    mprotect(all, PAGE, PROT_NONE);
    mprotect(all + PAGE + pages, PAGE, PROT_NONE);
    return all + PAGE;
}
static void give_back(u8 *memory, size_t bytes) {
    munmap(memory - PAGE, (bytes + PAGE - 1) / PAGE * PAGE + 2 * PAGE);
}

/// Runs blocks `first` to `last`; with fibers all of them at once.
static void run_blocks(Worker &worker, u64 first, u64 last, u8 *stacks) {
    const LaunchOf &l = *launch;
    const u32 threads = l.threads.x * l.threads.y * l.threads.z, warps = (threads + WARP - 1) / WARP;
    const u64 blocks = last - first;
    Block *all = static_cast<Block *>(calloc(blocks, sizeof(Block)));
    Cluster *clusters = static_cast<Cluster *>(calloc(blocks / l.cluster + 1, sizeof(Cluster)));
    Lanes *lanes = static_cast<Lanes *>(calloc(blocks * warps, sizeof(Lanes)));
    Thread *fibers = static_cast<Thread *>(calloc(blocks * threads, sizeof(Thread)));
    for (u64 b = 0; b < blocks; b++) {
        const u64 index = first + b;
        Block &block = all[b];
        block.index = {u32(index % l.grid.x), u32(index / l.grid.x % l.grid.y), u32(index / l.grid.x / l.grid.y)};
        // Ends where the memory ends, as near as vectors of 16 bytes let it.
        block.shared_bytes = l.shared_bytes;
        if (l.shared_bytes > 0) {
            u8 *memory = guarded(l.shared_bytes);
            memset(memory, 0xff, shared_pages(block));
            block.shared = memory + (shared_pages(block) - l.shared_bytes) / 16 * 16;
            // Nor yet in that of one that has not begun.
            if (l.cluster > 1) mprotect(memory, shared_pages(block), PROT_NONE);
        }
        block.alive = threads;
        block.warps = lanes + b * warps;
        Cluster &cluster = clusters[b / l.cluster];
        if (b % l.cluster == 0) cluster.first = &block, cluster.size = l.cluster, cluster.alive = l.cluster * threads;
        for (u32 i = 0; i < threads; i++) {
            Thread &t = fibers[b * threads + i];
            t.tid = {i % l.threads.x, i / l.threads.x % l.threads.y, i / l.threads.x / l.threads.y};
            t.ntid = l.threads, t.ctaid = block.index, t.nctaid = l.grid;
            t.lane = i % WARP, t.block = &block, t.warp = &block.warps[i / WARP], t.cluster = &cluster;
            t.rank = b % l.cluster, t.worker = &worker;
            t.warp->alive |= 1u << t.lane;
        }
    }
    const u64 count = blocks * threads;
    if (!l.fibers) {
        for (u64 i = 0; i < count; i++) worker.running = &fibers[i], kernel(fibers[i], l.parameters);
    } else {
        for (u64 i = 0; i < count; i++) {
            void **top = reinterpret_cast<void **>(stacks + (i + 1) * STACK);
            // What `unroll_switch` takes off: a return address, and under it six registers; above it, as after a call,
            // the stack is aligned to 16 bytes but for 8.
            top -= 2;
            *top = reinterpret_cast<void *>(run_fiber);
            fibers[i].stack_pointer = top - 6;
        }
        u64 left = count, order = l.order + first, chosen = 0, idle = 0;
        bool some_only = true;
        while (left > 0) {
            // Every round from another thread on, in either direction. Some warps only, or some blocks, until they wait
            // for others, then all for a moment, then others: as far apart as barriers let them be. First blocks, of which
            // some have not begun when others are far.
            order = order * 6364136223846793005u + 1442695040888963407u;
            const u64 start = (order >> 33) % count;
            const bool backwards = order >> 63;
            bool progress = false;
            for (u64 i = 0; i < count; i++) {
                const u64 at = (start + (backwards ? count - i : i)) % count;
                Thread &t = fibers[at];
                if (t.done || (t.wait_for != nullptr && *t.wait_for == t.wait_while)) continue;
                const u64 unit = chosen >> 62 ? at / WARP : at / threads;
                if (some_only && ((unit + 1) * 0x9e3779b97f4a7c15u ^ chosen) % 5 > 1) continue;
                t.wait_for = nullptr, t.spins = false;
                if (l.cluster > 1 && l.shared_bytes > 0 && !t.block->begun) {
                    mprotect(shared_begin(*t.block), shared_pages(*t.block), PROT_READ | PROT_WRITE);
                    t.block->begun = true;
                }
                worker.running = &t;
                unroll_switch(&worker.stack_pointer, t.stack_pointer);
                progress |= !t.spins;
                if (t.done) left--;
            }
            // Who looks for a change may have made one before, which others see in the next round.
            idle = progress ? 0 : idle + 1;
            if (idle > 1000 && left > 0) {
                for (u64 i = 0; i < count; i++) {
                    if (!fibers[i].done) fail(fibers[i], "all threads wait: they do not meet at the same barriers");
                }
            }
            if (!some_only || !progress) some_only = !some_only, chosen = order;
        }
    }
    for (u64 b = 0; b < blocks && l.shared_bytes > 0; b++) give_back(shared_begin(all[b]), l.shared_bytes);
    free(fibers), free(lanes), free(clusters), free(all);
}

/// Blocks that are left, so many at once.
struct Queue {
    u64 next, blocks, at_once;
};

static void *work(void *queue_of) {
    Queue &queue = *static_cast<Queue *>(queue_of);
    const u64 stack_bytes =
        launch->fibers ? queue.at_once * launch->threads.x * launch->threads.y * launch->threads.z * STACK : 0;
    u8 *stacks = stack_bytes > 0 ? guarded(stack_bytes) : nullptr;
    Worker worker{};
    here = &worker;
    while (true) {
        const u64 first = __atomic_fetch_add(&queue.next, queue.at_once, __ATOMIC_RELAXED);
        if (first >= queue.blocks) break;
        run_blocks(worker, first, first + queue.at_once, stacks);
    }
    here = nullptr;
    if (stack_bytes > 0) give_back(stacks, stack_bytes);
    return nullptr;
}

extern "C" void unroll_run(const LaunchOf *run) {
    launch = run;
    const u64 blocks = u64(run->grid.x) * run->grid.y * run->grid.z;
    Queue queue{0, blocks, run->together ? blocks : run->cluster};
    // One more thread where there is enough to do.
    pthread_t other;
    const bool two = blocks >= 4 * queue.at_once && pthread_create(&other, nullptr, work, &queue) == 0;
    work(&queue);
    if (two) pthread_join(other, nullptr);
    launch = nullptr;
}

/// Where this thread of the processor's is, for a message: writes `kernel: block, thread`.
extern "C" void unroll_where(char *text, size_t size) {
    if (launch == nullptr || here == nullptr || here->running == nullptr) {
        snprintf(text, size, "%s", "no kernel");
        return;
    }
    const Thread &t = *here->running;
    snprintf(text, size, "%s: block (%u, %u, %u), thread (%u, %u, %u)", launch->kernel, t.ctaid.x, t.ctaid.y, t.ctaid.z,
             t.tid.x, t.tid.y, t.tid.z);
}
