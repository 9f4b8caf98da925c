// The threads every CPU operator shares: started when first wanted, kept, asleep between calls.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace dalipipe {

// Calls body(i) for every i in [0, n), on the calling thread and at most threads - 1 helpers, and returns when all are
// done. Work is handed out one index at a time by an atomic counter, so uneven items balance themselves; which thread
// takes which index is not defined. Any number of callers may be inside at once. After a fork the child starts helpers
// of its own. The first exception a body throws stops the handing out and is rethrown here.
void parallel_for(int64_t n, int32_t threads, const std::function<void(int64_t)>& body);

// Something at work on one of those threads, while its starter goes on. It may use parallel_for itself.
class Task {
 public:
  explicit Task(std::function<void()> body);
  ~Task();  // waits
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  // Returns when it is done, and rethrows what it threw, each time. In a child of a fork since the start, throws
  // std::runtime_error: the thread it was on is not there.
  void wait();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dalipipe
