#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <unordered_map>

#include "cpu/pool.h"

namespace dalipipe {
namespace {

constexpr size_t kHeldFiles = 256;  // descriptors a batch keeps from sizing to reading; the others are opened twice

template <typename Call>
auto retry(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

}  // namespace

FileBatch::FileBatch(std::vector<FileRange> ranges, int64_t max_bytes, int32_t threads)
    : ranges_(std::move(ranges)), file_of_(ranges_.size()), starts_(ranges_.size() + 1, 0), errors_(ranges_.size()) {
  std::unordered_map<std::string, int32_t> seen;
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const auto [entry, fresh] = seen.emplace(ranges_[i].path, static_cast<int32_t>(first_.size()));
    if (fresh) first_.push_back(static_cast<int32_t>(i));
    file_of_[i] = entry->second;
  }
  files_.resize(first_.size());
  std::atomic<bool> scarce{false};
  parallel_for(static_cast<int64_t>(files_.size()), threads, [&](int64_t f) {
    if (!open(files_[f], ranges_[first_[f]].path, static_cast<size_t>(f) < kHeldFiles)) scarce = true;
  });
  if (scarce) close();  // leave the process the descriptors it needs; `read` takes one a thread
  for (size_t i = 0; i < ranges_.size(); ++i) {
    FileRange& range = ranges_[i];
    const File& file = files_[file_of_[i]];
    Error& error = errors_[i];
    error = file.error;
    if (!error.code && range.length < 0) range.length = file.size - range.offset;
    const bool inside = range.offset >= 0 && range.offset <= file.size && range.length <= file.size - range.offset;
    if (!error.code && !inside) {
      error = {EINVAL, "the range starts at byte " + std::to_string(range.offset) + " and asks for " +
                           std::to_string(std::max<int64_t>(range.length, 0)) + ", the file has " +
                           std::to_string(file.size)};
    }
    if (!error.code && range.length > max_bytes) {
      error = {EFBIG,
               std::to_string(range.length) + " bytes, at most " + std::to_string(max_bytes) + " are read at once"};
    }
    if (error.code) range.length = 0;
    starts_[i + 1] = starts_[i] + range.length;
  }
}

FileBatch::~FileBatch() { close(); }

void FileBatch::close() {
  for (File& file : files_) {
    if (file.fd >= 0) ::close(file.fd);
    file.fd = -1;
  }
}

// Opens and sizes a file; without `keep`, or when descriptors run out, sizes it only. False: they ran out.
bool FileBatch::open(File& file, const std::string& path, bool keep) {
  struct stat status;
  if (path.find('\0') != std::string::npos) {
    file.error = {EINVAL, "the path holds a null byte"};
    return true;
  }
  // O_NONBLOCK: opening a pipe must not wait for its writer; it means nothing to a regular file.
  if (keep) file.fd = retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); });
  const bool scarce = keep && file.fd < 0 && (errno == EMFILE || errno == ENFILE);
  if (keep && file.fd < 0 && !scarce) {
    file.error.code = errno;
  } else if (retry([&] { return file.fd >= 0 ? ::fstat(file.fd, &status) : ::stat(path.c_str(), &status); }) < 0) {
    file.error.code = errno;
  } else if (S_ISDIR(status.st_mode)) {
    file.error.code = EISDIR;
  } else if (!S_ISREG(status.st_mode)) {
    file.error = {ESPIPE, "not a regular file"};
  } else {
    file.size = status.st_size;
  }
  return !scarce;
}

void FileBatch::read(uint8_t* arena, int32_t threads) {
  parallel_for(static_cast<int64_t>(ranges_.size()), threads, [&](int64_t i) {
    if (ranges_[i].length > 0) read_one(i, arena + starts_[i]);
  });
  int64_t to = 0;
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const int64_t length = errors_[i].code ? 0 : ranges_[i].length;
    if (length > 0 && to != starts_[i]) std::memmove(arena + to, arena + starts_[i], length);
    starts_[i] = to;
    to += length;
  }
  starts_.back() = to;
}

void FileBatch::read_one(size_t i, uint8_t* to) {
  const FileRange& range = ranges_[i];
  const int held = files_[file_of_[i]].fd;
  const int fd =
      held >= 0 ? held : retry([&] { return ::open(range.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); });
  if (fd < 0) {
    errors_[i].code = errno;
    return;
  }
  for (int64_t got = 0; got < range.length;) {  // a read may return less than asked for, at most 2 GiB
    const ssize_t more = retry([&] { return ::pread(fd, to + got, range.length - got, range.offset + got); });
    if (more < 0) errors_[i].code = errno;
    if (more == 0) {
      errors_[i] = {EIO, "the file shrank while it was read: " + std::to_string(got) + " of " +
                             std::to_string(range.length) + " bytes"};
    }
    if (more <= 0) break;
    got += more;
  }
  if (held < 0) ::close(fd);
}

void copy_blocks(const Blocks& blocks, int32_t threads) {
  parallel_for(blocks.n, threads, [&](int64_t i) {
    const uint8_t* from = reinterpret_cast<const uint8_t*>(blocks.from[i]);
    uint8_t* to = reinterpret_cast<uint8_t*>(blocks.to[i]);
    const int64_t stride = blocks.stride[i], rows = blocks.rows[i], nbytes = blocks.row_bytes[i];
    if (stride == nbytes) {
      if (rows * nbytes > 0) std::memcpy(to, from, rows * nbytes);
      return;
    }
    for (int64_t row = 0; row < rows; ++row) std::memcpy(to + row * nbytes, from + row * stride, nbytes);
  });
}

}  // namespace dalipipe
