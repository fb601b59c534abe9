// A team: one caller and its workers.
//
// A job is open from when its caller posts it until the caller itself has found nothing left to do. A worker that sees it open counts itself in,
// works, and counts itself out; the caller then waits for those that are in. A worker that comes too late is not waited for. All of that is one
// word, so that joining and closing cannot pass each other:
//
//     bits 0-11   workers that are in
//     bit 12      open
//     bit 13      the caller sleeps until the last one is out
//     bits 14-31  number of the job
//
// Who waits spins for a while and then sleeps, which also lets the system give the core to the very thread that is waited for.

#include "pool.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#else
#include <condition_variable>
#include <mutex>
#endif

#include "spin.h"

namespace infer {
namespace {

constexpr uint32_t IN = 0xfff, OPEN = 1 << 12, SLEEPS = 1 << 13, NEXT = 1 << 14;
constexpr int MOST_THREADS = 1024;
constexpr int MOST_CPUS = 1024;  // that a cpu_set_t has room for

// Nanoseconds for which a worker that has nothing to do looks for a job: longer than the gap between two operations of a step.
constexpr int64_t WORKER_SPINS = 50000;
// And for which a caller looks for the last one to end: longer than most pieces take.
constexpr int64_t CALLER_SPINS = 20000;

// A word to sleep on.
struct Word : std::atomic<uint32_t> {
    using std::atomic<uint32_t>::atomic;
#if defined(__linux__)
    // Sleeps unless it is no longer `value`; may also return for no reason.
    void wait_while(uint32_t value) { syscall(SYS_futex, (uint32_t *)this, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0); }
    void wake_all() { syscall(SYS_futex, (uint32_t *)this, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0); }
#else
    std::mutex mutex;
    std::condition_variable changed;
    void wait_while(uint32_t value) {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return load() != value; });
    }
    void wake_all() {
        std::lock_guard<std::mutex> lock(mutex);
        changed.notify_all();
    }
#endif
};

// Rounding and what becomes of tiny numbers are the caller's in all threads of its team.
struct FloatingPoint {
#if defined(__x86_64__)
    unsigned mode = _mm_getcsr() & 0xffc0;  // without flags of what has happened
    void take_on() const {
        if ((_mm_getcsr() & 0xffc0) != mode) _mm_setcsr(mode);
    }
#elif defined(__aarch64__)
    uint64_t mode;
    FloatingPoint() { asm volatile("mrs %0, fpcr" : "=r"(mode)); }
    void take_on() const {
        uint64_t own;
        asm volatile("mrs %0, fpcr" : "=r"(own));
        if (own != mode) asm volatile("msr fpcr, %0" : : "r"(mode));
    }
#else
    void take_on() const {}
#endif
};

// Rises in each child of a fork, where there are no workers.
std::atomic<uint64_t> forks{0};

// CPUs for a thread and its workers, in this order; none: wherever the system puts them. The thread itself stays where it is.
using Places = std::vector<int>;

void put(pthread_t worker, int cpu) {
#if defined(__linux__)
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    pthread_setaffinity_np(worker, sizeof only, &only);  // a CPU that has gone since is no reason to stop
#else
    (void)worker, (void)cpu;
#endif
}

class Team {
  public:
    Team(int wanted, const Places &places) : made_in(forks.load()) {
        workers = new Worker[wanted - 1];
        // Signals are for the threads that were there before us.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        for (; count < wanted - 1; count++) {
            Worker &worker = workers[count];
            worker.team = this, worker.number = count;
            if (pthread_create(&worker.thread, nullptr, begin, &worker) != 0) break;  // the system allows no more: fewer do it
            if (!places.empty()) put(worker.thread, places[(count + 1) % places.size()]);
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    ~Team() {
        ends.store(true);
        state.fetch_add(NEXT);
        state.wake_all();
        for (int i = 0; i < count; i++) pthread_join(workers[i].thread, nullptr);
        delete[] workers;
    }

    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    bool has_threads() const { return made_in == forks.load(std::memory_order_relaxed); }

    // By `wanted` threads at most, the caller included.
    void run(int wanted, void (*job)(const void *), const void *about) {
        work = job, context = about, mode = FloatingPoint();
        called.store(wanted - 1, std::memory_order_relaxed);
        const uint32_t number = (state.load(std::memory_order_relaxed) & ~(NEXT - 1)) + NEXT;
        state.store(number | OPEN);
        if (asleep.load()) state.wake_all();
        job(about);
        uint32_t value = state.fetch_and(~OPEN) & ~OPEN;
        if (!(value & IN)) return;
        value = spin(state, CALLER_SPINS, [](uint32_t v) { return !(v & IN); });
        while (value & IN) {
            if (!(value & SLEEPS)) {
                if (!state.compare_exchange_weak(value, value | SLEEPS)) continue;
                value |= SLEEPS;
            }
            state.wait_while(value);
            value = state.load();
        }
    }

  private:
    Word state{0};
    alignas(64) std::atomic<int> asleep{0};
    std::atomic<bool> ends{false};
    std::atomic<int> called{0};  // workers of lower numbers
    alignas(64) void (*work)(const void *) = nullptr;
    const void *context = nullptr;
    FloatingPoint mode;
    struct Worker {
        pthread_t thread;
        Team *team;
        int number;
    };
    Worker *workers = nullptr;
    int count = 0;
    const uint64_t made_in;

    void look_for_work(int number);
    static void *begin(void *worker) {
        const Worker &self = *(const Worker *)worker;
        self.team->look_for_work(self.number);
        return nullptr;
    }
};

thread_local int size = 0;  // 0: not said
thread_local bool working = false;

void Team::look_for_work(int number) {
    working = true;
    uint32_t last = 0;
    for (;;) {
        const auto there = [&](uint32_t v) { return (v & OPEN) && (v & ~(NEXT - 1)) != last && number < called.load(std::memory_order_relaxed); };
        uint32_t value = spin(state, WORKER_SPINS, [&](uint32_t v) { return there(v) || ends.load(std::memory_order_relaxed); });
        if (ends.load()) return;
        if (!there(value)) {
            asleep.fetch_add(1);
            value = state.load();
            while (!there(value) && !ends.load()) {
                state.wait_while(value);
                value = state.load();
            }
            asleep.fetch_sub(1);
            continue;
        }
        if (!state.compare_exchange_strong(value, value + 1)) continue;
        last = value & ~(NEXT - 1);
        mode.take_on();
        work(context);
        const uint32_t left = state.fetch_sub(1) - 1;
        if (!(left & IN) && (left & SLEEPS)) state.wake_all();
    }
}

// Those of threads that have said nothing. Never freed, and read without a lock: a child of a fork may find one taken, and threads may outlive
// what is destroyed at the end.
std::atomic<const Places *> usual_places{nullptr};
thread_local const Places *own_places = nullptr;  // null: this thread has said nothing

Places places() {
    const Places *chosen = own_places ? own_places : usual_places.load();
    return chosen ? *chosen : Places();
}

// A thread's team, which ends with the thread.
struct Own {
    Team *team = nullptr;
    int size = 0;
    ~Own() { end(); }
    void end() {
        if (team && team->has_threads()) delete team;  // else it is lost: its threads are another process's
        team = nullptr;
    }
    Team &of(int wanted) {
        if (!team || size < wanted || !team->has_threads()) {
            end();
            team = new Team(wanted, places());
            size = wanted;
        }
        return *team;
    }
};
thread_local Own own;

void place(const int64_t *cpus, int64_t count, bool for_all) {
    Places *chosen = new Places;
    for (int64_t i = 0; i < count; i++)
        if (cpus[i] >= 0 && cpus[i] < MOST_CPUS) chosen->push_back((int)cpus[i]);
    if (for_all)
        usual_places.store(chosen);
    else
        own_places = chosen;
    own.end();  // its workers are where they were said to be before
}

int count_threads() {
    const char *given = getenv("OMP_NUM_THREADS");
    int count = given ? atoi(given) : 0;
#if defined(__linux__)
    cpu_set_t usable;
    if (count < 1 && sched_getaffinity(0, sizeof usable, &usable) == 0) count = CPU_COUNT(&usable);
#endif
    if (count < 1) count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    return std::min(std::max(1, count), MOST_THREADS);
}

int machine_threads() {
    static std::atomic<int> found{0};  // 0: nobody has looked; two who look at a time see the same
    int count = found.load(std::memory_order_relaxed);
    if (!count) found.store(count = count_threads(), std::memory_order_relaxed);
    return count;
}

std::atomic<int> usual{0};  // the size of teams of threads that have said nothing; 0: machine_threads()

const int at_fork = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });

}  // namespace

int threads() {
    if (working) return 1;
    if (size) return size;
    const int said = usual.load(std::memory_order_relaxed);
    return said ? said : machine_threads();
}

void run_in_team(void (*work)(const void *), const void *context) {
    const int wanted = threads();
    if (wanted == 1) return work(context);
    Team &team = own.of(wanted);
    working = true;
    team.run(wanted, work, context);
    working = false;
}

}  // namespace infer

// Sets the size of the calling thread's team; below 1: that of a thread that has said nothing.
extern "C" void infer_set_threads(int64_t count) { infer::size = (int)std::min<int64_t>(std::max<int64_t>(0, count), infer::MOST_THREADS); }

// The same for all threads that have said nothing; below 1: as many as OMP_NUM_THREADS says or there are CPUs to use.
extern "C" void infer_set_usual_threads(int64_t count) { infer::usual = (int)std::min<int64_t>(std::max<int64_t>(0, count), infer::MOST_THREADS); }

extern "C" void infer_get_threads(int64_t *count) { *count = infer::threads(); }

// Puts the workers of the calling thread's team on CPUs: cpus[0] is the thread's own place, which is for it to take, and workers have those behind
// it; 0 of them: wherever the system puts them. `usual`: also those of all threads that have said nothing, from their next team on.
extern "C" void infer_place_workers(const int64_t *cpus, int64_t count, int64_t usual) { infer::place(cpus, count, usual != 0); }
