// Waiting without sleeping: looking at a word for a while.
#pragma once

#include <atomic>
#include <cstdint>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace infer {

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
}

inline int64_t now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

// Looks at `word` until `done(value)`, for about so long. Gives the last value.
template <class Done> uint32_t spin(const std::atomic<uint32_t> &word, int64_t nanoseconds, const Done &done) {
    uint32_t value = word.load(std::memory_order_acquire);
    for (int64_t until = 0; !done(value); value = word.load(std::memory_order_acquire)) {
        const int64_t time = now();
        if (!until) until = time + nanoseconds;
        else if (time > until) break;
        for (int i = 0; i < 8 && word.load(std::memory_order_relaxed) == value; i++) pause();
    }
    return value;
}

}  // namespace infer
