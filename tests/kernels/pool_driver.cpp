// Loops over threads of a team, for test_pool.py.
#include <atomic>
#include <chrono>
#include <set>
#include <mutex>
#include <thread>

#include "parallel.h"

using namespace infer;

// Adds 1 to each of `counts`, in pieces of at least `least`; `rounds` times.
extern "C" void count(int64_t *counts, int64_t items, int64_t least, int64_t rounds) {
    for (int64_t round = 0; round < rounds; round++) parallel_for(items, least, [&](int64_t i) { counts[i]++; });
}

// The same by loops in loops: each row of `width` is a loop of its own. How many threads worked on the inner loops of one row at most.
extern "C" void count_nested(int64_t *counts, int64_t rows, int64_t width, int64_t *most) {
    std::atomic<int64_t> found{0};
    parallel_for(rows, 1, [&](int64_t row) {
        std::set<std::thread::id> who;
        std::mutex mutex;
        parallel_for(width, 1, [&](int64_t i) {
            counts[row * width + i]++;
            std::lock_guard<std::mutex> lock(mutex);
            who.insert(std::this_thread::get_id());
        });
        int64_t now = found;
        while ((int64_t)who.size() > now && !found.compare_exchange_weak(now, who.size())) {}
    });
    *most = found;
}

// How many threads of the team have met within `milliseconds`.
extern "C" void meet(int64_t wanted, int64_t milliseconds, int64_t *met) {
    std::atomic<int64_t> here{0};
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
    in_team([&] {
        here++;
        while (here < wanted && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    });
    *met = here;
}

// Nanoseconds that a team of which nothing is wanted costs, the least of so many.
extern "C" void enter(int64_t rounds, int64_t *least) {
    *least = INT64_MAX;
    for (int64_t i = 0; i < rounds; i++) {
        const auto start = std::chrono::steady_clock::now();
        in_team([] {});
        *least = std::min<int64_t>(*least, std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count());
    }
}

// What half of the smallest normal number is in each thread of the team that comes: 0 where such numbers are flushed. Bit 0: some are 0, bit 1: some are not.
extern "C" void halves(int64_t wanted, int64_t *seen) {
    std::atomic<int64_t> found{0}, here{0};
    in_team([&] {
        volatile float smallest = 1.17549435e-38f;
        const float half = smallest * 0.5f;
        found |= half == 0 ? 1 : 2;
        here++;
        for (int i = 0; i < 100000000 && here < wanted; i++) std::this_thread::yield();
    });
    *seen = found;
}
