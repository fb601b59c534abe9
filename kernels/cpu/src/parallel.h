// When a loop over rows is worth several threads.
#pragma once

#include <cstdint>

namespace infer {

// Starting and joining threads costs 4 to 5 microseconds: what one thread does to about 20,000 elements.
inline bool worth_threads(int64_t elements) { return elements > 40000; }

}  // namespace infer
