// The threads every CPU operator shares: started when first wanted, kept, asleep between calls.
#pragma once

#include <cstdint>
#include <functional>

namespace dalipipe {

// Calls body(i) for every i in [0, n), on the calling thread and at most threads - 1 helpers, and returns when all are
// done. Work is handed out one index at a time by an atomic counter, so uneven items balance themselves; which thread
// takes which index is not defined. Any number of callers may be inside at once. After a fork the child starts helpers
// of its own. The first exception a body throws stops the handing out and is rethrown here.
void parallel_for(int64_t n, int32_t threads, const std::function<void(int64_t)>& body);

}  // namespace dalipipe
