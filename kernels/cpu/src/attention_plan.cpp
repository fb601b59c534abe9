// Plan of a step's attention: which rows go together, and through what. Made once for all layers; takes microseconds.
#include <cstring>
#include <numeric>
#include <vector>

#include "attention_items.h"

namespace infer {
namespace {

struct Planner {
    Items in;
    int64_t num_sequences, block_size, group;
    std::vector<Member> members = {};
    std::vector<Run> runs = {};
    std::vector<ItemParts> parts = {};
    std::vector<int64_t> work = {};  // of each item

    // Tokens of a sequence that were computed in earlier steps: nobody else writes to them, and all its rows see them.
    int64_t before(const Member &m) const { return in.position(m) - m.first; }
    int64_t end(const Member &m) const {
        int64_t last = 0;
        for (int64_t t = 0; in.spans && t < m.tokens; t++) last = std::max(last, in.last(m, t));
        return in.spans ? last + 1 : in.position(m) + m.tokens;
    }
    const int32_t *table(const Member &m) const { return in.tables + m.sequence * in.table_stride; }
    int64_t rows(const Member &m) const { return m.tokens * group; }

    // Positions that two members can go through together: whole tiles.
    int64_t common(const Member &a, const Member &b) const {
        const int64_t most = std::min(before(a), before(b)) / block_size;
        const int32_t *left = table(a), *right = table(b);
        const int64_t same = std::mismatch(left, left + most, right).first - left;
        return same * block_size / TILE * TILE;
    }

    // In any order that puts tables side by side that begin alike.
    bool precedes(const Member &a, const Member &b) const {
        const int64_t blocks = std::min(before(a), before(b)) / block_size;
        const int order = memcmp(table(a), table(b), blocks * sizeof(int32_t));
        return order ? order < 0 : before(a) != before(b) ? before(a) < before(b) : a.sequence < b.sequence;
    }

    // Cuts the sequences into members of at most `most_rows` rows; those that are smaller may share an item of at most `together` rows.
    void plan(int64_t most_rows, int64_t together) {
        const int64_t tokens = std::max<int64_t>(1, most_rows / group);
        std::vector<Member> small;
        for (int32_t s = 0; s < num_sequences; s++) {
            const int64_t count = in.query_start[s + 1] - in.query_start[s];
            for (int64_t first = 0; first < count; first += tokens) {
                const Member m{s, (int32_t)first, (int32_t)std::min(tokens, count - first)};
                if (2 * rows(m) <= together && before(m) >= TILE) small.push_back(m);
                else members.push_back(m), add_item(1, nullptr);
            }
        }
        std::sort(small.begin(), small.end(), [&](const Member &a, const Member &b) { return precedes(a, b); });
        std::vector<int64_t> shared(small.size());  // with the member before
        for (size_t i = 1; i < small.size(); i++) shared[i] = common(small[i - 1], small[i]);
        for (size_t i = 0; i < small.size();) {
            int64_t all = 0;
            size_t last = i;
            do all += rows(small[last++]);
            while (last < small.size() && shared[last] > 0 && all + rows(small[last]) <= together);
            members.insert(members.end(), small.begin() + i, small.begin() + last);
            add_item((int32_t)(last - i), shared.data() + i);
            i = last;
        }
    }

    // The last `count` members are an item. shared[i]: positions that member i of them shares with the one before.
    void add_item(int32_t count, const int64_t *shared) {
        const int32_t last = (int32_t)members.size(), first = last - count, run = (int32_t)runs.size();
        work.push_back(add_runs(first, last, 0, shared));
        parts.push_back({first, last, run, (int32_t)runs.size()});
    }

    // The runs of members [first, last) from position `from` on, and how much work they are.
    int64_t add_runs(int32_t first, int32_t last, int64_t from, const int64_t *shared) {
        const int64_t to = last - first == 1 ? end(members[first]) : *std::min_element(shared + 1, shared + (last - first));
        int64_t added = 0;
        if (from < to) {
            int64_t together = 0;
            for (int32_t m = first; m < last; m++) together += rows(members[m]);
            runs.push_back({first, last, (int32_t)from, (int32_t)to});
            added = (to - from) * together;
        }
        if (last - first == 1) return added;
        // Where no more is shared than by all of them, they part.
        for (int32_t part = first, m = first + 1; m <= last; m++)
            if (m == last || shared[m - first] == to) added += add_runs(part, m, std::max(from, to), shared + (part - first)), part = m;
        return added;
    }
};

}  // namespace
}  // namespace infer

// Writes the plan: most work first, so that threads end together.
//   members   room for one of each sequence and `most_rows` rows, rounded up
//   runs      room for twice as many
//   items     room for as many
//   counts    how many items, runs and members there are
// group: query heads of a key/value head. together: rows of sequences that begin alike in one item, at most.
extern "C" void infer_plan_attention(infer::Member *members, infer::Run *runs, infer::ItemParts *items, int32_t *counts,
                                     const int32_t *query_start, const int32_t *kv_lens, const int32_t *tables, const int32_t *spans,
                                     int64_t table_stride, int64_t num_sequences, int64_t block_size, int64_t group, int64_t most_rows, int64_t together) {
    infer::Planner planner{{nullptr, nullptr, nullptr, query_start, kv_lens, tables, spans, table_stride, 0}, num_sequences, block_size, group};
    planner.plan(most_rows, together);
    std::vector<int32_t> order(planner.parts.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return planner.work[a] > planner.work[b]; });
    // Lists are in the order of items.
    infer::ItemParts next{0, 0, 0, 0};
    for (const int32_t i : order) {
        const infer::ItemParts &part = planner.parts[i];
        const int32_t moved = next.first - part.first;
        for (int32_t m = part.first; m < part.last; m++) members[next.last++] = planner.members[m];
        for (int32_t r = part.run; r < part.last_run; r++) {
            const infer::Run &run = planner.runs[r];
            runs[next.last_run++] = {run.first + moved, run.last + moved, run.start, run.end};
        }
        *items++ = next;
        next.first = next.last, next.run = next.last_run;
    }
    counts[0] = (int32_t)order.size(), counts[1] = next.run, counts[2] = next.first;
}
