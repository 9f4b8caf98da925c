#include "cpu/pool.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace dalipipe {
namespace {

// One call of parallel_for, or a task. Its owner lets go of it only when no helper is inside.
struct Job {
  const std::function<void(int64_t)>& body;
  const int64_t n, stride;  // indices in all, and taken at once
  std::atomic<int64_t> next{0};
  int32_t wanted;      // helpers still welcome; guarded by the pool's mutex, as are the next two
  int32_t inside = 0;  // helpers at work
  std::exception_ptr error;

  // Takes indices until none is left.
  void work(std::mutex& mutex) {
    for (int64_t first; (first = next.fetch_add(stride, std::memory_order_relaxed)) < n;) {
      try {
        for (int64_t i = first; i < std::min(first + stride, n); ++i) body(i);
      } catch (...) {
        next.store(n, std::memory_order_relaxed);
        std::lock_guard<std::mutex> lock(mutex);
        if (!error) error = std::current_exception();
      }
    }
  }
};

class Pool {
 public:
  void run(Job& job) {
    std::unique_lock<std::mutex> lock(mutex_);
    grow(job.wanted + tasks_);
    const int32_t wake = job.wanted = std::min(job.wanted, size_);
    if (wake > 0) jobs_.push_back(&job);
    lock.unlock();
    for (int32_t i = 0; i < wake; ++i) work_.notify_one();
    finish(job);
  }

  // A thread is found for the job, if the system grants one: `finish` sees to it in any case.
  void start(Job& job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      grow(++tasks_);
      jobs_.push_back(&job);
    }
    work_.notify_one();
  }

  void finish_task(Job& job) {
    finish(job);
    std::lock_guard<std::mutex> lock(mutex_);
    --tasks_;
  }

 private:
  // Does what is left of a job, and waits for those inside.
  void finish(Job& job) {
    job.work(mutex_);
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
    done_.wait(lock, [&] { return job.inside == 0; });
  }

  void grow(int32_t wanted) {
    for (; size_ < wanted; ++size_) {
      try {
        std::thread([this] { help(); }).detach();
      } catch (const std::system_error&) {
        return;  // the system grants no more threads: those there are, and the caller, do the work
      }
    }
  }

  void help() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      work_.wait(lock, [&] { return !jobs_.empty(); });
      Job& job = *jobs_.front();
      if (--job.wanted == 0) jobs_.pop_front();
      ++job.inside;
      lock.unlock();
      job.work(mutex_);
      lock.lock();
      if (--job.inside == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<Job*> jobs_;  // those that still want helpers
  int32_t size_ = 0, tasks_ = 0;
};

// Never destroyed: its threads may outlive every static object. A child of fork() has none of them, and perhaps a mutex
// that one of them held, so it forgets the parent's pool and makes its own.
std::atomic<Pool*> current{nullptr};

Pool& pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); });
  static_cast<void>(registered);
  Pool* found = current.load();
  if (found == nullptr) {
    std::unique_ptr<Pool> fresh(new Pool);
    if (current.compare_exchange_strong(found, fresh.get())) found = fresh.release();
  }
  return *found;
}

}  // namespace

void parallel_for(int64_t n, int32_t threads, const std::function<void(int64_t)>& body) {
  const int32_t helpers = static_cast<int32_t>(std::min<int64_t>(threads, n)) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  constexpr int64_t kTurns = 32;  // of each thread: enough for them to end together, few enough to cost nothing
  Job job{body, n, std::max<int64_t>(1, n / (kTurns * (helpers + 1))), {}, helpers, 0, {}};
  pool().run(job);
  if (job.error) std::rethrow_exception(job.error);
}

struct Task::State {
  std::function<void(int64_t)> body;
  Job job;
  Pool& pool;
  pid_t process;
  bool done;

  explicit State(std::function<void()> work)
      : body([work = std::move(work)](int64_t) { work(); }),
        job{body, 1, 1, {}, 1, 0, {}},
        pool(dalipipe::pool()),
        process(getpid()),
        done(false) {}
};

Task::Task(std::function<void()> body) : state_(new State(std::move(body))) { state_->pool.start(state_->job); }

Task::~Task() {
  if (getpid() != state_->process) {
    static_cast<void>(state_.release());  // the parent's pool refers to it, here as a copy that nobody uses
  } else if (!state_->done) {
    state_->pool.finish_task(state_->job);
  }
}

void Task::wait() {
  State& s = *state_;
  if (getpid() != s.process) throw std::runtime_error("a task that was started before a fork is the parent's alone");
  if (!s.done) s.pool.finish_task(s.job);
  s.done = true;
  if (s.job.error) std::rethrow_exception(s.job.error);
}

}  // namespace dalipipe
