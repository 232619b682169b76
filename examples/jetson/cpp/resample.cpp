#include "resample.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <stdexcept>

namespace resnet {
namespace {

constexpr int kChannels = 3;
constexpr double kPi = 3.14159265358979323846;

// An int32 sum of 8-bit pixels times coefficients, two bits spare for coefficients that sum above 1 in between.
constexpr int kFractionBits = 32 - 8 - 2;
constexpr double kOne = 1 << kFractionBits;
constexpr int kHalf = 1 << (kFractionBits - 1);

struct Filter {
  double support;  // radius in source pixels at scale 1
  double (*weight)(double);
};

double sinc(double x) { return x == 0.0 ? 1.0 : std::sin(kPi * x) / (kPi * x); }

// Half open: of two source pixels at equal distance, one is taken.
double box_weight(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double bilinear_weight(double x) { return std::max(0.0, 1.0 - std::fabs(x)); }

// 0.54 and 0.46 are float constants in Pillow, and their rounding shows in the 22nd bit.
double hamming_weight(double x) {
  const double distance = std::fabs(x);
  if (distance == 0.0) return 1.0;
  if (distance >= 1.0) return 0.0;
  const double angle = distance * kPi;
  return std::sin(angle) / angle * (0.54f + 0.46f * std::cos(angle));
}

// Keys' cubic convolution with a = -0.5, in Horner's order: rounding depends on it.
double bicubic_weight(double x) {
  constexpr double a = -0.5;
  const double distance = std::fabs(x);
  if (distance < 1.0) return ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0;
  if (distance < 2.0) return (((distance - 5.0) * distance + 8.0) * distance - 4.0) * a;
  return 0.0;
}

double lanczos_weight(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0; }

Filter filter_of(Interpolation interpolation) {
  switch (interpolation) {
    case Interpolation::box:
      return {0.5, box_weight};
    case Interpolation::bilinear:
      return {1.0, bilinear_weight};
    case Interpolation::hamming:
      return {1.0, hamming_weight};
    case Interpolation::bicubic:
      return {2.0, bicubic_weight};
    case Interpolation::lanczos:
      return {3.0, lanczos_weight};
    case Interpolation::nearest:
      break;
  }
  throw std::logic_error("nearest has no filter");
}

// Which source pixels make one output pixel, and how much of each in fixed point.
struct Taps {
  int first = 0;
  std::vector<std::int32_t> weights;
};

std::int32_t fixed_point(double weight) {  // half away from zero
  return static_cast<std::int32_t>(weight < 0 ? weight * kOne - 0.5 : weight * kOne + 0.5);
}

std::vector<Taps> taps_of(int old_size, int new_size, const Filter& filter) {
  const double scale = static_cast<double>(old_size) / new_size;
  const double stretch = std::max(scale, 1.0);  // antialiasing: the filter widens when the image shrinks
  const double support = filter.support * stretch;
  const double step = 1.0 / stretch;
  std::vector<Taps> all(static_cast<std::size_t>(new_size));
  std::vector<double> weights;
  for (int place = 0; place < new_size; ++place) {
    const double center = (place + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(center - support + 0.5));
    const int end = std::min(old_size, static_cast<int>(center + support + 0.5));
    weights.clear();
    double sum = 0.0;
    for (int source = first; source < end; ++source) {
      weights.push_back(filter.weight((source - center + 0.5) * step));
      sum += weights.back();
    }
    Taps& taps = all[static_cast<std::size_t>(place)];
    taps.first = first;
    taps.weights.reserve(weights.size());
    for (const double weight : weights) taps.weights.push_back(fixed_point(sum != 0.0 ? weight / sum : weight));
  }
  return all;
}

std::uint8_t rounded(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp((sum + kHalf) >> kFractionBits, 0, 255));
}

// One row of pixels to a row of `taps.size()` pixels.
void resample_row(const std::uint8_t* row, const std::vector<Taps>& taps, std::uint8_t* out) {
  for (const Taps& tap : taps) {
    const std::uint8_t* source = row + static_cast<std::ptrdiff_t>(tap.first) * kChannels;
    std::int32_t sums[kChannels] = {};
    for (const std::int32_t weight : tap.weights) {
      for (int channel = 0; channel < kChannels; ++channel) sums[channel] += weight * source[channel];
      source += kChannels;
    }
    for (int channel = 0; channel < kChannels; ++channel) *out++ = rounded(sums[channel]);
  }
}

RgbImage empty_image(int height, int width) {
  const auto size = static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * kChannels;
  return {height, width, std::vector<std::uint8_t>(size)};
}

RgbImage resample_columns(const std::uint8_t* pixels, int height, int width, int new_width, const Filter& filter) {
  RgbImage out = empty_image(height, new_width);
  const std::vector<Taps> taps = taps_of(width, new_width, filter);
  for (int y = 0; y < height; ++y) {
    resample_row(pixels + static_cast<std::size_t>(y) * static_cast<std::size_t>(width) * kChannels, taps,
                 out.pixels.data() + static_cast<std::size_t>(y) * static_cast<std::size_t>(new_width) * kChannels);
  }
  return out;
}

RgbImage resample_rows(const std::uint8_t* pixels, int height, int width, int new_height, const Filter& filter) {
  RgbImage out = empty_image(new_height, width);
  const std::vector<Taps> taps = taps_of(height, new_height, filter);
  const std::size_t row_bytes = static_cast<std::size_t>(width) * kChannels;
  std::vector<std::int32_t> sums(row_bytes);
  for (std::size_t y = 0; y < taps.size(); ++y) {
    std::fill(sums.begin(), sums.end(), 0);
    const std::uint8_t* source = pixels + static_cast<std::size_t>(taps[y].first) * row_bytes;
    for (const std::int32_t weight : taps[y].weights) {
      for (std::size_t byte = 0; byte < row_bytes; ++byte) sums[byte] += weight * source[byte];
      source += row_bytes;
    }
    std::transform(sums.begin(), sums.end(), out.pixels.begin() + static_cast<std::ptrdiff_t>(y * row_bytes), rounded);
  }
  return out;
}

// Source pixel of every output pixel. The position is added up, not multiplied, because Pillow does, and the rounding
// of the sum decides which pixel is nearest; -1 where it adds up to beyond the image.
std::vector<int> nearest_of(int old_size, int new_size) {
  const double scale = static_cast<double>(old_size) / new_size;
  double position = scale * 0.5;
  std::vector<int> sources(static_cast<std::size_t>(new_size));
  for (int& source : sources) {
    source = position < old_size ? static_cast<int>(position) : -1;
    position += scale;
  }
  return sources;
}

RgbImage resize_nearest(const std::uint8_t* pixels, int height, int width, int new_height, int new_width) {
  RgbImage out = empty_image(new_height, new_width);
  const std::vector<int> rows = nearest_of(height, new_height);
  const std::vector<int> columns = nearest_of(width, new_width);
  std::uint8_t* target = out.pixels.data();
  for (const int row : rows) {
    for (const int column : columns) {
      if (row >= 0 && column >= 0) {
        const auto place = static_cast<std::size_t>(row) * static_cast<std::size_t>(width) +
                           static_cast<std::size_t>(column);
        std::memcpy(target, pixels + place * kChannels, kChannels);
      }
      target += kChannels;
    }
  }
  return out;
}

// Which pass comes first shows in the last bit, because pixels are rounded to 8 bits in between.
// Source: Pillow 13 (python-pillow/Pillow#9549), the rule as measured on both sides of its limit; Pillow 12 always
// begins with the columns.
bool rows_first(int height, int width, int new_height, int new_width) {
  return new_height < height && std::int64_t{height} - new_height > 2 * (std::int64_t{width} - new_width);
}

}  // namespace

Interpolation interpolation_from_name(const std::string& name) {
  if (name == "nearest") return Interpolation::nearest;
  if (name == "box") return Interpolation::box;
  if (name == "bilinear") return Interpolation::bilinear;
  if (name == "hamming") return Interpolation::hamming;
  if (name == "bicubic") return Interpolation::bicubic;
  if (name == "lanczos") return Interpolation::lanczos;
  throw std::invalid_argument("interpolation: got \"" + name +
                              "\", expected nearest, box, bilinear, hamming, bicubic or lanczos");
}

RgbImage resize(const std::uint8_t* pixels, int height, int width, int new_height, int new_width,
                Interpolation interpolation) {
  if (pixels == nullptr || std::min({height, width, new_height, new_width}) <= 0) {
    throw std::invalid_argument("resize: got an image without pixels or a size of 0");
  }
  if (interpolation == Interpolation::nearest) return resize_nearest(pixels, height, width, new_height, new_width);
  const Filter filter = filter_of(interpolation);
  // A pass that would change no size is left out.
  if (new_height == height && new_width == width) {
    RgbImage copy = empty_image(height, width);
    std::copy_n(pixels, copy.pixels.size(), copy.pixels.begin());
    return copy;
  }
  if (new_height == height) return resample_columns(pixels, height, width, new_width, filter);
  if (new_width == width) return resample_rows(pixels, height, width, new_height, filter);
  if (rows_first(height, width, new_height, new_width)) {
    const RgbImage between = resample_rows(pixels, height, width, new_height, filter);
    return resample_columns(between.pixels.data(), new_height, width, new_width, filter);
  }
  const RgbImage between = resample_columns(pixels, height, width, new_width, filter);
  return resample_rows(between.pixels.data(), height, new_width, new_height, filter);
}

}  // namespace resnet
