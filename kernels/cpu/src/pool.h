// Threads for kernels. Each thread that calls kernels has a team of its own: itself and workers that are created once, when it first needs them.
#pragma once

namespace infer {

// The size of the calling thread's team, itself included: what `infer_set_threads` said, or else what the machine has. 1 within work of a team.
int threads();

// Calls work(context) here and in workers of the calling thread's team that are free; returns when all that began it have ended.
void run_in_team(void (*work)(const void *), const void *context);

}  // namespace infer
