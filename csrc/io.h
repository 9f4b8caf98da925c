// Storage: batched parallel reads of files or byte ranges, and what an image file's first bytes say about it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dalipipe {

// One file, or a range of it, to be read.
struct FileRange {
  std::string path;
  int64_t offset = 0;   // bytes
  int64_t length = -1;  // bytes; -1: to the end of the file
};

// Reads many ranges into one arena, in two steps, so that the caller owns the arena: the constructor opens and sizes
// every file, `read` fills. A range that fails has length zero and an entry in `errors`, and costs the others nothing.
class FileBatch {
 public:
  struct Error {
    int32_t code = 0;   // errno; 0: none
    std::string cause;  // empty: what the errno says
  };

  FileBatch(std::vector<FileRange> ranges, int64_t max_bytes, int32_t threads);
  ~FileBatch();
  FileBatch(const FileBatch&) = delete;
  FileBatch& operator=(const FileBatch&) = delete;

  int64_t total_bytes() const { return starts_.back(); }  // that `read` needs
  // Fills `arena`; once. A range whose file shrank meanwhile fails, and what follows it moves up.
  void read(uint8_t* arena, int32_t threads);
  const std::vector<int64_t>& starts() const { return starts_; }  // [N+1] bytes; range i: [starts[i], starts[i+1])
  const std::vector<Error>& errors() const { return errors_; }    // [N]

 private:
  struct File {
    int fd = -1;       // -1: closed; opened again by `read`
    int64_t size = 0;  // bytes
    Error error;
  };

  static bool open(File& file, const std::string& path, bool keep);
  void close();
  void read_one(size_t i, uint8_t* to);

  std::vector<FileRange> ranges_;
  std::vector<int32_t> file_of_;  // [N] into files_: ranges of one file share it
  std::vector<int32_t> first_;    // [F] the first range of each file
  std::vector<File> files_;       // [F]
  std::vector<int64_t> starts_;
  std::vector<Error> errors_;
};

// Many blocks of memory to other places: block i is rows[i] runs of row_bytes[i] bytes, stride[i] bytes apart where it
// comes from and back to back where it goes.
struct Blocks {
  const uint64_t *from, *to;  // [N] addresses
  const int64_t *stride, *rows, *row_bytes;
  int64_t n = 0;
};
void copy_blocks(const Blocks& blocks, int32_t threads);

enum class ImageKind : int32_t { unknown = 0, jpeg = 1, png = 2, webp = 3, bmp = 4, gif = 5, tiff = 6, pnm = 7 };

enum ImageFlag : uint32_t {
  kProgressive = 1 << 0,    // JPEG: progressive; PNG: interlaced
  kTruncated = 1 << 1,      // the file ends before its format says it may
  kAnimated = 1 << 2,       // more than one picture (APNG, GIF, WebP, multi-page TIFF)
  kAlpha = 1 << 3,          // an alpha channel or a transparent colour
  kPalette = 1 << 4,        // samples are indices; `channels` counts the colours' channels
  kCmyk = 1 << 5,           // four inks
  kAdobe = 1 << 6,          // JPEG: an Adobe marker (CMYK is then stored inverted)
  kYcck = 1 << 7,           // JPEG: CMYK stored as YCCK
  kRgb = 1 << 8,            // JPEG: three components stored as RGB, not YCbCr
  kLossless = 1 << 9,       // JPEG: lossless process
  kArithmetic = 1 << 10,    // JPEG: arithmetic coding
  kHierarchical = 1 << 11,  // JPEG: hierarchical process
  kDamaged = 1 << 12,       // JPEG: a marker where only picture data may be
  kRestarts = 1 << 13,      // JPEG: restart markers, perhaps a grid of tiles
  kUnusual = 1 << 14        // JPEG: components sampled in another way than jpeg/file.h has it
};

// Mirrored, field by field, by `dalipipe.native.IMAGE_HEADER` (a numpy dtype).
struct ImageHeader {
  int32_t kind = 0;               // an `ImageKind`
  int32_t height = 0, width = 0;  // px as stored, before orientation; 0: not found
  int32_t channels = 0;           // of the decoded picture, alpha included
  int32_t bits = 0;               // a sample
  int32_t orientation = 1;        // EXIF, 1..8
  uint32_t flags = 0;             // `ImageFlag`s
};
static_assert(sizeof(ImageHeader) == 28, "keep dalipipe.native.IMAGE_HEADER in step");

// Reads the header of one encoded image. Never throws for bad bytes and never reads outside [data, data + size): what
// cannot be made out is `unknown`, or zero. It decodes nothing, so a good header does not promise a good picture.
ImageHeader probe_image(const uint8_t* data, size_t size);
void probe_images(const uint8_t* arena, const int64_t* starts, int64_t n, int32_t threads, ImageHeader* out);

}  // namespace dalipipe
