// preprocess_ppm BUNDLE IMAGE.ppm OUT.f32: prepare one binary PPM (P6, 8 bits) and write float32 [3, H, W], raw, in
// this machine's byte order. A check of the preprocessing that needs no OpenCV and no TensorRT.
#include <algorithm>
#include <cctype>
#include <fstream>
#include <iostream>

#include "preprocess.hpp"

namespace {

constexpr long kMaxSide = 1 << 20;

// The next number of the header; '#' starts a comment (Netpbm's ppm(5)).
long header_number(const std::string& bytes, std::size_t& place) {
  while (place < bytes.size() && (std::isspace(static_cast<unsigned char>(bytes[place])) != 0 || bytes[place] == '#')) {
    if (bytes[place] == '#') {
      while (place < bytes.size() && bytes[place] != '\n') ++place;
    } else {
      ++place;
    }
  }
  long value = -1;
  while (place < bytes.size() && std::isdigit(static_cast<unsigned char>(bytes[place])) != 0 && value <= kMaxSide) {
    value = std::max(0L, value) * 10 + (bytes[place++] - '0');
  }
  return value;
}

resnet::RgbImage read_ppm(const std::string& path) {
  const std::string bytes = resnet::read_file(path);
  if (bytes.compare(0, 2, "P6") != 0) throw std::invalid_argument(path + ": expected a binary PPM (P6)");
  std::size_t place = 2;
  const long width = header_number(bytes, place);
  const long height = header_number(bytes, place);
  const long maximum = header_number(bytes, place);
  ++place;  // one white space
  if (width <= 0 || height <= 0 || width > kMaxSide || height > kMaxSide || maximum != 255) {
    throw std::invalid_argument(path + ": expected a size > 0 and a maximum of 255");
  }
  const auto size = static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3;
  if (place > bytes.size() || bytes.size() - place < size) throw std::invalid_argument(path + ": cut short");
  const auto* first = reinterpret_cast<const std::uint8_t*>(bytes.data()) + place;
  return {static_cast<int>(height), static_cast<int>(width), {first, first + size}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: preprocess_ppm BUNDLE IMAGE.ppm OUT.f32\n";
    return 2;
  }
  try {
    const resnet::Manifest manifest = resnet::load_manifest(argv[1]);
    const resnet::RgbImage image = read_ppm(argv[2]);
    const std::vector<float> values =
        resnet::preprocess(manifest.preprocessing, image.pixels.data(), image.height, image.width);
    std::ofstream out(argv[3], std::ios::binary);
    out.write(reinterpret_cast<const char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
    if (!out.flush()) throw std::runtime_error(std::string(argv[3]) + " cannot be written");
  } catch (const std::exception& err) {
    std::cerr << "preprocess_ppm: " << err.what() << '\n';
    return 1;
  }
  return 0;
}
