// The work of attention in items: what one thread does from beginning to end.
//
// A member is some neighbouring tokens of a sequence. An item has one, or several whose block tables begin with the same blocks: then
// its runs say which of them go through which positions together, so that keys and values that they share are read once. A member's
// positions come in order from run to run, so its rows cannot tell who else went along.
#pragma once

#include <algorithm>

#include "scores.h"

namespace infer {

struct Member {
    int32_t sequence, first, tokens;  // `first`: the first one's number among the sequence's tokens of this step
};

struct Run {
    int32_t first, last;  // members from `first` to before `last`, numbers in the whole list
    int32_t start, end;   // positions: a multiple of TILE, and that after the last
};

struct ItemParts {
    int32_t first, last, run, last_run;  // members and runs, numbers in the whole lists
};

struct Items {
    const Member *members;
    const Run *runs;
    const ItemParts *parts;
    const int32_t *query_start, *kv_lens, *tables;
    const int32_t *spans;  // [tokens][2]: the first and the last position that each sees beside what a causal one does; null: all are causal
    int64_t table_stride, window;

    int64_t row(const Member &m) const { return query_start[m.sequence] + m.first; }
    int64_t position(const Member &m) const { return kv_lens[m.sequence] - (query_start[m.sequence + 1] - query_start[m.sequence]) + m.first; }
    // The first position from which a window hides nothing from a member's token `t`, and the last that it sees.
    int64_t first(const Member &m, int64_t t) const { return spans ? spans[2 * (row(m) + t)] : position(m) + t; }
    int64_t last(const Member &m, int64_t t) const { return spans ? spans[2 * (row(m) + t) + 1] : position(m) + t; }
    const int32_t *table(const Run &run) const { return tables + members[run.first].sequence * table_stride; }

    // The first tile that one of a run's members sees: none of a member's tokens sees one that its first does not.
    int64_t start(const Run &run) const {
        if (window <= 0) return run.start;
        int64_t seen = INT64_MAX;
        for (int32_t m = run.first; m < run.last; m++) seen = std::min({seen, position(members[m]) + 1 - window, first(members[m], 0)});
        return std::max<int64_t>(run.start, seen / TILE * TILE);
    }
};

// Key/value heads h0 to h1 of an item. Heads are next to each other in a block: all of them see a tile before the next one.
struct Item {
    ItemParts parts;
    int64_t h0, h1;
    int64_t heads() const { return h1 - h0; }
};

// A tile of one head.
struct Place {
    const int32_t *table;
    int64_t start, end, head;  // `end`: the position after the run's last one
};

// The tiles of items, one after the other.
class Walk {
  public:
    Walk(const Items &items, const Item &item) : items(&items), item(item), run(item.parts.run) { enter(); }

    bool ended() const { return run == item.parts.last_run; }
    const Run &on() const { return items->runs[run]; }
    Place place() const { return {table, start, end, head}; }

    void step() {
        if (++head < item.h1) return;
        head = item.h0, start += TILE;
        if (start >= end) run++, enter();
    }
    // Goes on with another item where this one ends.
    void step_into(const Item &then) {
        step();
        if (ended()) *this = Walk(*items, then);
    }

  private:
    // Begins the next run of which anything is seen.
    void enter() {
        for (head = item.h0; run < item.parts.last_run; run++) {
            start = items->start(on()), end = on().end;
            if (start < end) {
                table = items->table(on());
                return;
            }
        }
    }

    const Items *items;
    Item item;
    int64_t run, start = 0, end = 0, head = 0;
    const int32_t *table = nullptr;
};

}  // namespace infer
