// Products of several weights of one shape, each with rows of its own: what each thread does of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace infer {

// Tasks are a chunk of a product's rows by a panel of its weight; a thread has those that follow each other. Rows are counted in units of the caller's.
class Shares {
  public:
    struct Chunk {
        int64_t part, first, count;  // units [first, first + count) of product `part`
    };

    // Args: `units_of(part)`, which may be 0; panels of each weight; units of a chunk at most; the least that it is cut to where there would be fewer
    // tasks than `tasks`; `cost_of(units)` of a task.
    template <class Units, class Cost>
    Shares(int64_t parts, const Units &units_of, int64_t panels, int64_t most, int64_t least, int64_t tasks, const Cost &cost_of) : panels(panels) {
        int64_t *cuts = (int64_t *)malloc(parts * sizeof(int64_t));
        for (int64_t i = 0; i < parts; i++) count += cuts[i] = (units_of(i) + most - 1) / most;
        // The largest chunks first.
        while (count * panels < tasks) {
            int64_t largest = -1, size = least - 1;
            for (int64_t i = 0; i < parts; i++)
                if (units_of(i) / (cuts[i] + 1) > size) largest = i, size = units_of(i) / (cuts[i] + 1);
            if (largest < 0) break;
            cuts[largest]++, count++;
        }
        chunks = (Chunk *)malloc(count * sizeof(Chunk));
        costs = (int64_t *)malloc(count * sizeof(int64_t));
        for (int64_t i = 0, at = 0; i < parts; i++)
            for (int64_t cut = 0; cut < cuts[i]; cut++, at++) {
                const int64_t first = units_of(i) * cut / cuts[i], size = units_of(i) * (cut + 1) / cuts[i] - first;
                chunks[at] = Chunk{i, first, size};
                cost += panels * (costs[at] = cost_of(size));
            }
        free(cuts);
    }
    ~Shares() {
        free(costs);
        free(chunks);
    }
    Shares(const Shares &) = delete;
    Shares &operator=(const Shares &) = delete;

    // Calls `task(chunk, panel, next_part, next_panel)` for each of a thread's, of `team`; what comes next to fetch meanwhile: a panel of product
    // `next_part`, which is -1 after the last task.
    template <class Task> void of_thread(int64_t id, int64_t team, const Task &task) const {
        int64_t from = cost * id / team, to = cost * (id + 1) / team;
        for (int64_t i = 0; i < count && to > 0; i++) {
            const int64_t first = before(from, costs[i]), last = before(to, costs[i]);
            from -= panels * costs[i], to -= panels * costs[i];
            const int64_t after = to > 0 && i + 1 < count ? chunks[i + 1].part : -1;
            for (int64_t p = first; p < last; p++) task(chunks[i], p, p + 1 < last ? chunks[i].part : after, p + 1 < last ? p + 1 : 0);
        }
    }

  private:
    Chunk *chunks;
    int64_t *costs;
    int64_t panels, count = 0, cost = 0;

    // Panels of a chunk, each costing `each`, that come before `cost`.
    int64_t before(int64_t cost, int64_t each) const { return cost <= 0 ? 0 : std::min(panels, (cost + each - 1) / each); }
};

}  // namespace infer
