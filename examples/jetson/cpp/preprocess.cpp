#include "preprocess.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>

#include "json.hpp"

namespace resnet {
namespace {

constexpr std::int64_t kSchemaVersion = 1;

// Source: runtimes/preprocessing/transform.py, _MAX_RESIZED_PIXELS (Pillow's MAX_IMAGE_PIXELS).
constexpr std::int64_t kMaxResizedPixels = 1024LL * 1024 * 1024 / 4 / 3;

std::string listed(const std::set<std::string>& keys) {
  std::string text;
  for (const std::string& key : keys) text += (text.empty() ? "" : ", ") + key;
  return text;
}

const Json::Object& with_keys(const std::string& what, const Json& value, const std::set<std::string>& expected) {
  const Json::Object& members = value.object(what);
  std::set<std::string> got;
  for (const auto& member : members) got.insert(member.first);
  if (got != expected) {
    throw JsonError(what + ": got the keys " + listed(got) + ", expected exactly " + listed(expected));
  }
  return members;
}

int side_from_json(const std::string& what, const Json& value) {
  const std::int64_t side = value.integer(what);
  if (side <= 0 || side > std::numeric_limits<int>::max()) {
    throw JsonError(what + ": got " + std::to_string(side) + ", expected a whole number > 0");
  }
  return static_cast<int>(side);
}

std::optional<Size> size_from_json(const std::string& what, const Json& value) {
  if (value.is_null()) return std::nullopt;
  const Json::Object& size = with_keys(what, value, {"height", "width"});
  return Size{side_from_json(what + " height", size.at("height")), side_from_json(what + " width", size.at("width"))};
}

std::array<float, 3> rgb_from_json(const std::string& what, const Json& value) {
  const Json::Array& numbers = value.array(what);
  if (numbers.size() != 3) throw JsonError(what + ": expected three numbers (R, G, B)");
  std::array<float, 3> rgb{};
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const double number = numbers[channel].number(what);
    if (std::fabs(number) > std::numeric_limits<float>::max()) throw JsonError(what + ": beyond float32");
    rgb[channel] = static_cast<float>(number);
  }
  return rgb;
}

Preprocessing preprocessing_from_json(const Json& value) {
  static const std::set<std::string> keys = {"color_order", "layout", "dtype", "scale", "resize",
                                             "crop", "interpolation", "mean", "std"};
  const Json::Object& fields = with_keys("preprocessing", value, keys);
  static const std::array<std::array<const char*, 2>, 4> fixed = {
      {{"color_order", "RGB"}, {"layout", "NCHW"}, {"dtype", "float32"}, {"scale", "1/255"}}};
  for (const auto& [key, expected] : fixed) {
    const std::string& got = fields.at(key).string(key);
    if (got != expected) throw JsonError(std::string(key) + ": got \"" + got + "\", expected \"" + expected + "\"");
  }
  Preprocessing result;
  const Json& resize = fields.at("resize");
  if (resize.is_object() && resize.object("resize").count("shorter_side") != 0) {
    result.shorter_side =
        side_from_json("resize shorter_side", with_keys("resize", resize, {"shorter_side"}).at("shorter_side"));
  } else {
    result.exact_size = size_from_json("resize", resize);
  }
  result.crop = size_from_json("crop", fields.at("crop"));
  if (!result.crop && !result.exact_size) throw JsonError("neither crop nor an exact resize gives the input's size");
  result.interpolation = interpolation_from_name(fields.at("interpolation").string("interpolation"));
  result.mean = rgb_from_json("mean", fields.at("mean"));
  result.std = rgb_from_json("std", fields.at("std"));
  if (!(*std::min_element(result.std.begin(), result.std.end()) > 0)) throw JsonError("std: expected numbers > 0");
  return result;
}

// As runtimes.bundle.manifest.Manifest.answers: a Softmax of the network's own, or one that the export added.
bool needs_softmax(const Json& content) {
  static const std::set<std::string> logits = {"logits", "log-probabilities"};
  static const std::set<std::string> given = {"probabilities", "independent"};
  const Json::Object& options = content.at("options").object("options");
  const auto softmax = options.find("softmax");
  if (softmax != options.end() && !softmax->second.is_null() && softmax->second.boolean("softmax")) return false;
  const Json::Object& model = content.at("model").object("model");
  const auto answers = model.find("answers");
  if (answers == model.end()) return true;
  const std::string& kind = answers->second.string("answers");
  if (logits.count(kind) == 0 && given.count(kind) == 0) {
    throw JsonError("answers: got \"" + kind + "\", expected one of " + listed(logits) + ", " + listed(given));
  }
  return logits.count(kind) != 0;
}

Manifest manifest_from_json(const Json& content) {
  const std::int64_t schema = content.at("schema_version").integer("schema_version");
  if (schema != kSchemaVersion) {
    throw JsonError("got schema " + std::to_string(schema) + ", this version reads " + std::to_string(kSchemaVersion));
  }
  const Json::Array& inputs = content.at("inputs").array("inputs");
  const Json::Array& outputs = content.at("outputs").array("outputs");
  if (inputs.size() != 1 || outputs.empty()) throw JsonError("expected one input and at least one output");
  const std::string& dtype = inputs[0].at("dtype").string("input dtype");
  if (dtype != "float32") {
    throw JsonError("input dtype: got \"" + dtype + "\", expected \"float32\"; export without --input uint8");
  }
  return {preprocessing_from_json(content.at("preprocessing")), inputs[0].at("name").string("input name"),
          outputs[0].at("name").string("output name"), content.at("model").at("num_classes").integer("num_classes"),
          needs_softmax(content)};
}

// (height, width) after the resize; the longer side is cut to a whole number, not rounded.
std::array<std::int64_t, 2> resized_size(const Preprocessing& preprocessing, int height, int width) {
  if (preprocessing.exact_size) return {preprocessing.exact_size->height, preprocessing.exact_size->width};
  const std::int64_t side = *preprocessing.shorter_side;
  const auto longer = [side](int longer_side, int shorter_side) {  // bounded: the cast of a huge double is undefined
    return static_cast<std::int64_t>(std::min(1e15, static_cast<double>(side * longer_side) / shorter_side));
  };
  if (width <= height) return {longer(height, width), side};
  return {side, longer(width, height)};
}

// Where the crop begins, < 0 for padding: an odd padding has its extra pixel at the end, a tie rounds to even.
int crop_offset(int side, int crop) {
  if (crop > side) return -((crop - side) / 2);
  const int half = (side - crop) / 2;
  return (side - crop) % 2 == 0 ? half : half + half % 2;
}

RgbImage center_crop(const RgbImage& image, Size crop) {
  const int left = crop_offset(image.width, crop.width);
  const int top = crop_offset(image.height, crop.height);
  RgbImage out{crop.height, crop.width, {}};
  out.pixels.resize(static_cast<std::size_t>(crop.height) * static_cast<std::size_t>(crop.width) * 3);  // black
  const int first = std::max(0, left);
  const int end = static_cast<int>(std::min<std::int64_t>(image.width, std::int64_t{left} + crop.width));
  for (int y = 0; y < crop.height; ++y) {
    const std::int64_t source_y = std::int64_t{top} + y;
    if (source_y < 0 || source_y >= image.height) continue;
    const auto source = (source_y * image.width + first) * 3;
    const auto target = (std::int64_t{y} * crop.width + (first - left)) * 3;
    std::copy_n(image.pixels.begin() + source, std::int64_t{end - first} * 3, out.pixels.begin() + target);
  }
  return out;
}

}  // namespace

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (!file || !(content << file.rdbuf())) throw BundleError(path + " cannot be read, or is empty");
  return content.str();
}

Manifest load_manifest(const std::string& bundle) {
  const std::string path = bundle + "/manifest.json";
  const std::string text = read_file(path);
  try {
    return manifest_from_json(Json::parse(text));
  } catch (const std::exception& err) {
    throw BundleError(path + ": " + err.what());
  }
}

std::vector<double> probabilities(const Manifest& manifest, const std::vector<float>& scores) {
  std::vector<double> result(scores.begin(), scores.end());
  if (!manifest.needs_softmax || result.empty()) return result;
  const double largest = *std::max_element(result.begin(), result.end());
  double sum = 0;
  for (double& value : result) sum += value = std::exp(value - largest);
  for (double& value : result) value /= sum;
  return result;
}

RgbImage pixels(const Preprocessing& preprocessing, const std::uint8_t* rgb, int height, int width) {
  if (rgb == nullptr || height <= 0 || width <= 0) throw std::invalid_argument("got an image without pixels");
  std::array<std::int64_t, 2> size = {height, width};
  if (preprocessing.shorter_side || preprocessing.exact_size) size = resized_size(preprocessing, height, width);
  RgbImage image;
  if (size[0] == height && size[1] == width) {
    image = {height, width, {rgb, rgb + static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3}};
  } else {
    if (size[0] > kMaxResizedPixels / size[1]) {
      throw std::invalid_argument("the image is " + std::to_string(width) + " x " + std::to_string(height) +
                                  " pixels, too long and thin: resized it would be " + std::to_string(size[1]) + " x " +
                                  std::to_string(size[0]) + "; cut it or leave it out");
    }
    image = resize(rgb, height, width, static_cast<int>(size[0]), static_cast<int>(size[1]),
                   preprocessing.interpolation);
  }
  return preprocessing.crop ? center_crop(image, *preprocessing.crop) : image;
}

std::vector<float> normalize(const Preprocessing& preprocessing, const RgbImage& image) {
  const std::size_t area = image.pixels.size() / 3;
  std::vector<float> values(area * 3);
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const float mean = preprocessing.mean[channel];
    const float std = preprocessing.std[channel];
    float* out = values.data() + channel * area;
    for (std::size_t place = 0; place < area; ++place) {
      const float scaled = static_cast<float>(image.pixels[place * 3 + channel]) / 255.0f;
      out[place] = (scaled - mean) / std;
    }
  }
  return values;
}

std::vector<float> preprocess(const Preprocessing& preprocessing, const std::uint8_t* rgb, int height, int width) {
  return normalize(preprocessing, pixels(preprocessing, rgb, height, width));
}

}  // namespace resnet
