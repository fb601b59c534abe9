// What the processes of one machine give each other through memory they share: numbers to wait for, sums, and columns side by side.
//
// Each rank has a line with the number of its last piece, and two slots of `slot` bytes, one for odd pieces and one for even ones:
//
//     lines  [ 0 | 1 | ... ]      64 bytes each: the rank's number, and how many sleep until it grows
//     slots  [ 0 even | 0 odd | 1 even | 1 odd | ... ]
//
// Piece n of a rank goes where its piece n - 2 was. That has been read by all when they have come to n - 1, so a rank that waits for this
// before it writes needs no other barrier. Memory that nobody has written is zeros, which is how it begins.
#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdint>
#include <cstring>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "parallel.h"
#include "spin.h"
#include "vectors.h"

namespace {

using namespace infer;

// Nanoseconds for which a rank looks for another's number before it sleeps: most come within that, as all ranks do the same work.
constexpr int64_t SPINS = 50000;

struct alignas(64) Line {
    std::atomic<uint32_t> number;
    std::atomic<uint32_t> sleepers;
};
static_assert(sizeof(Line) == 64 && std::atomic<uint32_t>::is_always_lock_free, "lines are shared between processes");

bool is_at(uint32_t number, uint32_t wanted) { return (int32_t)(number - wanted) >= 0; }  // they go around at 2^32

void sleep_while(Line &line, uint32_t value, int64_t nanoseconds) {
    const timespec time{nanoseconds / 1000000000, nanoseconds % 1000000000};
#if defined(__linux__)
    syscall(SYS_futex, (uint32_t *)&line.number, FUTEX_WAIT, value, &time, nullptr, 0);
#else
    const timespec little{0, std::min<int64_t>(nanoseconds, 50000)};
    if (line.number.load() == value) nanosleep(&little, nullptr);
#endif
}

void set_number(Line &line, uint32_t number) {
    line.number.store(number);
#if defined(__linux__)
    if (line.sleepers.load()) syscall(SYS_futex, (uint32_t *)&line.number, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
#endif
}

// False if the number does not come within so many nanoseconds.
bool wait_for(Line &line, uint32_t wanted, int64_t nanoseconds) {
    const auto came = [&](uint32_t number) { return is_at(number, wanted); };
    if (came(spin(line.number, SPINS, came))) return true;
    const int64_t until = now() + nanoseconds;
    for (;;) {
        line.sleepers.fetch_add(1);
        const uint32_t number = line.number.load();
        const int64_t left = until - now();
        if (!came(number) && left > 0) sleep_while(line, number, left);
        line.sleepers.fetch_sub(1);
        if (came(line.number.load())) return true;
        if (left <= 0) return false;
    }
}

// Bytes that one thread copies at a time, and elements that it adds.
constexpr int64_t COPIED = 1 << 16, ADDED = 1 << 14;

void copy(char *to, const char *from, int64_t bytes) {
    parallel_for((bytes + COPIED - 1) / COPIED, 1, [&](int64_t i) {
        memcpy(to + i * COPIED, from + i * COPIED, std::min(COPIED, bytes - i * COPIED));
    });
}

struct Ranks {
    char *memory;
    int64_t rank, size, slot;

    Line &line(int64_t r) const { return ((Line *)memory)[r]; }
    char *at(int64_t r, uint32_t number) const { return memory + size * sizeof(Line) + (2 * r + (number & 1)) * slot; }

    bool wait_for_all(uint32_t number, int64_t nanoseconds) const {
        for (int64_t r = 0; r < size; r++)
            if (r != rank && !wait_for(line(r), number, nanoseconds)) return false;
        return true;
    }
};

// The sum of all ranks' elements in the order of ranks, in float32. `own` may be `out`.
template <class T> void add(const Ranks &ranks, uint32_t number, const T *own, T *out, int64_t count) {
    parallel_for((count + ADDED - 1) / ADDED, 1, [&](int64_t piece) {
        const int64_t start = piece * ADDED;
        over_row(std::min(ADDED, count - start), [&](int64_t i, int n) {
            f32x16 sum = {};
            for (int64_t r = 0; r < ranks.size; r++) {
                const f32x16 part = load_n((r == ranks.rank ? own : (const T *)ranks.at(r, number)) + start + i, n);
                sum = r ? sum + part : part;
            }
            store_n(out + start + i, sum, n);
        });
    });
}

// Bytes [start, start + count) of rank r's rows, each `row` bytes, into its columns of rows of size * row bytes.
void place(const char *from, char *out, int64_t r, int64_t size, int64_t row, int64_t start, int64_t count) {
    for (int64_t done = 0, n; done < count; done += n) {
        const int64_t column = (start + done) % row;
        n = std::min(row - column, count - done);
        memcpy(out + ((start + done) / row * size + r) * row + column, from + done, n);
    }
}

// What a call left undone, to go on with.
struct State {
    int64_t number;  // of this rank's last piece, ever
    int64_t done;    // bytes
    int64_t posted;  // 1: the next piece is where others can read it
    int64_t ended;   // 1: there is nothing left to do
};

// Piece by piece: this rank's bytes where others read them, and `read(number, done, bytes)` when all have theirs there.
template <class Read>
void exchange(const Ranks &ranks, State &state, const char *in, int64_t bytes, bool reads, int64_t nanoseconds, const Read &read) {
    state.ended = 0;
    while (state.done < bytes) {
        const int64_t count = std::min(ranks.slot, bytes - state.done);
        if (!state.posted) {
            const uint32_t number = (uint32_t)state.number + 1;
            if (!ranks.wait_for_all(number - 1, nanoseconds)) return;
            copy(ranks.at(ranks.rank, number), in + state.done, count);
            set_number(ranks.line(ranks.rank), number);
            state.number = number;
            state.posted = 1;
        }
        if (reads) {
            if (!ranks.wait_for_all((uint32_t)state.number, nanoseconds)) return;
            read((uint32_t)state.number, state.done, count);
        }
        state.done += count;
        state.posted = 0;
    }
    state.done = 0;
    state.ended = 1;
}

}  // namespace

// The sum of all ranks' `in`, in the order of ranks. A call returns after some `nanoseconds` of waiting, to be made again until it has ended.
extern "C" void infer_share_sum(void *memory, int64_t *state, const void *in, void *out, int64_t rank, int64_t size, int64_t slot,
                                int64_t count, int64_t dtype, int64_t nanoseconds) {
    const Ranks ranks{(char *)memory, rank, size, slot};
    INFER_DISPATCH(dtype, T, {
        exchange(ranks, *(State *)state, (const char *)in, count * sizeof(T), true, nanoseconds,
                 [&](uint32_t number, int64_t done, int64_t bytes) {
                     const int64_t first = done / sizeof(T);
                     add<T>(ranks, number, (const T *)in + first, (T *)out + first, bytes / sizeof(T));
                 });
    });
}

// All ranks' rows of `row` bytes side by side, in `out` where that is given; the others do not wait. Called as `infer_share_sum` is.
extern "C" void infer_share_columns(void *memory, int64_t *state, const void *in, void *out, int64_t rank, int64_t size, int64_t slot,
                                    int64_t rows, int64_t row, int64_t nanoseconds) {
    const Ranks ranks{(char *)memory, rank, size, slot};
    exchange(ranks, *(State *)state, (const char *)in, rows * row, out != nullptr, nanoseconds,
             [&](uint32_t number, int64_t done, int64_t bytes) {
                 parallel_for(size, 1, [&](int64_t r) {
                     const char *from = r == rank ? (const char *)in + done : ranks.at(r, number);
                     place(from, (char *)out, r, size, row, done, bytes);
                 });
             });
}

// Sets the number of a line, and waits for one: `came` becomes 1, or 0 after so many nanoseconds.
extern "C" void infer_share_set(void *line, int64_t number) { set_number(*(Line *)line, (uint32_t)number); }

extern "C" void infer_share_wait(void *line, int64_t *came, int64_t number, int64_t nanoseconds) {
    *came = wait_for(*(Line *)line, (uint32_t)number, nanoseconds);
}
