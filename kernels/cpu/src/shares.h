// Products of several weights of one shape, each with rows of its own: what each thread does of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "parallel.h"

namespace infer {

// Tasks are a chunk of a product's rows by a panel of its weight; a thread takes runs of those that follow each other. Rows are counted in units of
// the caller's.
class Shares {
  public:
    struct Chunk {
        int64_t part, first, count;  // units [first, first + count) of product `part`
    };

    // Args: `units_of(part)`, which may be 0; panels of each weight; units of a chunk at most; the least that it is cut to where there would be fewer
    // tasks than threads would like; `cost_of(units)` of a task, in rows by words.
    template <class Units, class Cost>
    Shares(int64_t parts, const Units &units_of, int64_t panels, int64_t most, int64_t least, const Cost &cost_of) : panels(panels) {
        const int team = threads();
        int64_t *cuts = (int64_t *)malloc(parts * sizeof(int64_t));
        for (int64_t i = 0; i < parts; i++) count += cuts[i] = (units_of(i) + most - 1) / most;
        // The largest chunks first.
        while (team > 1 && count * panels < 4 * team) {
            int64_t largest = -1, size = least - 1;
            for (int64_t i = 0; i < parts; i++)
                if (units_of(i) / (cuts[i] + 1) > size) largest = i, size = units_of(i) / (cuts[i] + 1);
            if (largest < 0) break;
            cuts[largest]++, count++;
        }
        chunks = (Chunk *)malloc(count * sizeof(Chunk));
        int64_t cost = 0;
        for (int64_t i = 0, at = 0; i < parts; i++)
            for (int64_t cut = 0; cut < cuts[i]; cut++, at++) {
                const int64_t first = units_of(i) * cut / cuts[i], size = units_of(i) * (cut + 1) / cuts[i] - first;
                chunks[at] = Chunk{i, first, size};
                cost += cost_of(size);
            }
        free(cuts);
        pieces.are(count * panels, RUN * count / std::max<int64_t>(1, cost));
    }
    ~Shares() { free(chunks); }
    Shares(const Shares &) = delete;
    Shares &operator=(const Shares &) = delete;

    // Calls `work` in a team, if there is enough for two.
    template <class Work> void in_team(const Work &work) const { infer::in_team(work, !pieces.are_one()); }

    // Calls `task(chunk, panel, next_part, next_panel)` for tasks until there are none left; what comes next to fetch meanwhile: a panel of product
    // `next_part`, which is -1 after the last task. A thread takes its next run when it begins the last task of one.
    template <class Task> void work(const Task &task) {
        int64_t at, last;
        for (bool more = pieces.take(at, last); more;) {
            for (; at + 1 < last; at++) task(chunks[at / panels], at % panels, chunks[(at + 1) / panels].part, (at + 1) % panels);
            const int64_t now = at;
            more = pieces.take(at, last);
            task(chunks[now / panels], now % panels, more ? chunks[at / panels].part : -1, more ? at % panels : 0);
        }
    }

  private:
    // What a thread does in 2 to 4 microseconds at 250 to 500 GF/s, as cost; with AVX2 in float32, at 80 GF/s, in 13.
    static constexpr int64_t RUN = 16000;

    Chunk *chunks;
    const int64_t panels;
    int64_t count = 0;
    Pieces pieces;
};

}  // namespace infer
