// Loops over several threads: those of the calling thread's team (see pool.h), which take small pieces until there are none left.
//
// Nobody waits for a thread that has not come: the caller takes pieces as well, and what a thread that was descheduled holds up is the one
// piece that it had begun. So work must not depend on how many threads come, nor on who takes what.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "pool.h"

namespace infer {

// The least that is worth a piece, in elements of a row-wise operation: some 2 microseconds of one thread for the cheapest, a norm (Zen 3, float32:
// 0.19 ns an element; activations 0.8 to 0.9).
constexpr int64_t PIECE = 10000;

// When a loop over rows is worth several threads. Measured on Zen 3: a worker that still looks for work is at it after 0.25 microseconds, and a job
// of nothing takes 0.4 in all; one that sleeps comes after 27 to 40, and to wake it costs the caller 1 to 9. 40,000 elements of a norm take 8: from
// there on the caller loses little where workers sleep. A lower bound would gain nothing: a norm of 8 rows of 576 takes 0.9.
inline bool worth_threads(int64_t elements) { return elements > 40000; }

// Work of `count` items that members of a team take from the front, in pieces that become smaller towards the end.
class Pieces {
  public:
    Pieces() = default;
    // `least` items a piece, but for the last one.
    explicit Pieces(int64_t count, int64_t least = 1) { are(count, least); }

    // Before any is taken.
    void are(int64_t items, int64_t least_of_one) {
        count = items;
        least = std::max<int64_t>(1, least_of_one);
    }

    // Takes items [first, last); false if there are none left.
    bool take(int64_t &first, int64_t &last) {
        first = next.load(std::memory_order_relaxed);
        do {
            if (first >= count) return false;
            last = std::min(count, first + std::max(least, (count - first) / share));
        } while (!next.compare_exchange_weak(first, last, std::memory_order_relaxed));
        return true;
    }

    // Calls `each(item)` for items until there are none left.
    template <class Each> void work(const Each &each) {
        for (int64_t first, last; take(first, last);)
            for (; first < last; first++) each(first);
    }

    bool are_one() const { return count <= least; }

  private:
    int64_t count = 0, least = 1;
    const int64_t share = 4 * threads();
    alignas(64) std::atomic<int64_t> next{0};
};

// Calls `work()` in the calling thread and, at the same time, in those of its team that are free. What one call leaves undone the others must do:
// some may come late or never. Calls within `work` run in their thread alone. Returns when all that came have ended.
template <class Work> void in_team(const Work &work, bool worth = true) {
    if (!worth || threads() == 1) return work();
    run_in_team([](const void *context) { (*(const Work *)context)(); }, &work);
}

// Calls `each(i)` for i from 0 to count, at least `least` after each other in one thread.
template <class Each> void parallel_for(int64_t count, int64_t least, const Each &each) {
    Pieces pieces(count, least);
    in_team([&] { pieces.work(each); }, !pieces.are_one());
}

// Rows whose work is that of `elements` elements each, taken in pieces.
struct Rowwise : Pieces {
    const bool worth;
    Rowwise(int64_t rows, int64_t elements) : Pieces(rows, PIECE / std::max<int64_t>(1, elements)), worth(worth_threads(rows * elements)) {}
    template <class Work> void in_team(const Work &work) { infer::in_team(work, worth); }
};

// Calls `each(row)` for rows whose work is that of `elements` elements each.
template <class Each> void parallel_rows(int64_t rows, int64_t elements, const Each &each) {
    Rowwise pieces(rows, elements);
    pieces.in_team([&] { pieces.work(each); });
}

}  // namespace infer
