// Feeds mutated images to the header probe.
#include "fuzz.h"
#include "io.h"

void fuzz_probe(const uint8_t* data, size_t size) {
  const auto exact = exactly(data, size);
  const dalipipe::ImageHeader header = dalipipe::probe_image(exact.get(), size);
  require(header.kind >= 0 && header.kind <= static_cast<int32_t>(dalipipe::ImageKind::pnm), "kind");
  require(header.height >= 0 && header.width >= 0, "height, width");
  require(header.channels >= 0 && header.channels <= 65535 && header.bits >= 0 && header.bits <= 65535,
          "channels, bits");
  require(header.orientation >= 1 && header.orientation <= 8, "orientation");
  require(header.kind != 0 || (header.height == 0 && header.width == 0 && header.flags == 0), "unknown is empty");
}
