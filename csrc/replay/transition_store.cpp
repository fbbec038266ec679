#include "replay/transition_store.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace {

constexpr int64_t kLine = 64 / sizeof(float);  // floats per cache line

}  // namespace

TransitionStore::TransitionStore(const Shape& shape, const std::string& folder)
    : shape_(shape),
      stride_(shape.frame > 0 ? shape.frame + shape.action + 2
                              : (shape.observation + shape.action + 3 + kLine - 1) / kLine * kLine),
      arena_(static_cast<size_t>(shape.tasks * rows() * stride_) * sizeof(float), folder),
      rows_(static_cast<float*>(arena_.data())),
      rings_(shape.tasks) {}

void TransitionStore::set_words(float* row, uint32_t flags, uint32_t number) const {
  const bool stacked = shape_.frame > 0;
  const uint32_t words[2] = {stacked ? flags | number << 4 : flags, number};
  std::memcpy(row + held() + shape_.action + 1, words, stacked ? sizeof words[0] : sizeof words);
}

uint32_t TransitionStore::keep(Ring& ring, const float* observation) const {
  const int64_t size = shape_.observation;
  const auto length = static_cast<uint32_t>(ring.kept.size() / size);
  if (ring.kept_end - ring.kept_begin == length) {
    const uint32_t longer = length == 0 ? 4 : 2 * length;
    std::vector<float> kept(longer * size);
    for (uint32_t number = ring.kept_begin; number != ring.kept_end; ++number)
      std::copy_n(kept_of(ring, number), size, kept.data() + (number & (longer - 1)) * size);
    ring.kept.swap(kept);
  }
  const uint32_t number = ring.kept_end++;
  std::copy_n(observation, size, mutable_kept(ring, number));
  return number;
}

bool TransitionStore::fits(const float* observation, const float* next_observation) const {
  const int64_t frame = shape_.frame, goal = shape_.observation - 2 * frame;
  return frame == 0 ||
         (std::memcmp(next_observation + frame, observation, frame * sizeof(float)) == 0 &&
          std::memcmp(next_observation + 2 * frame, observation + 2 * frame, goal * sizeof(float)) == 0);
}

// Whether `observation` is the newest transition's next one. Bytes are compared, not numbers: every tuple
// comes back as it was put in, NaN and -0 included.
bool TransitionStore::is_announced(int64_t task, const float* observation) const {
  const Ring& ring = rings_[task];
  if (!ring.open) return false;
  const int64_t newest = row_of(ring.end - 1);
  const float* last = row(task, newest);
  if (std::memcmp(after(newest, last), observation, held() * sizeof(float)) != 0) return false;
  const int64_t frame = shape_.frame, goal = shape_.observation - 2 * frame;
  return frame == 0 || (std::memcmp(last, observation + frame, frame * sizeof(float)) == 0 &&
                        std::memcmp(kept_of(ring, number(last)) + 2 * frame, observation + 2 * frame,
                                    goal * sizeof(float)) == 0);
}

// `row` is the last of its run; `next_observation` is what followed (its frame is enough for stacked rows).
void TransitionStore::end_run(Ring& ring, float* row, uint32_t flags, const float* next_observation) const {
  if (shape_.frame == 0) {
    set_words(row, flags | kLast, keep(ring, next_observation));
    return;
  }
  const uint32_t run = number(row);
  set_words(row, flags | kLast, run);
  std::copy_n(next_observation, shape_.frame, mutable_kept(ring, run));
}

// Needs two live transitions at least.
void TransitionStore::drop_oldest(int64_t task) {
  Ring& ring = rings_[task];
  const uint32_t oldest = flags(row(task, row_of(ring.begin))),
                 next = flags(row(task, row_of(ring.begin + 1)));
  ring.kept_begin += shape_.frame == 0 ? (oldest & kLast) != 0 : (next & kFirst) != 0;
  ++ring.begin;
}

void TransitionStore::add(int64_t task, const float* observation, const float* action, float reward,
                          bool terminated, bool truncated, const float* next_observation) {
  Ring& ring = rings_[task];
  const int64_t at = row_of(ring.end);
  float* row = mutable_row(task, at);
  const bool continues = is_announced(task, observation);
  float* newest = ring.end > ring.begin ? mutable_row(task, row_of(ring.end - 1)) : nullptr;
  if (ring.open && !continues) end_run(ring, newest, flags(newest), row);
  if (size(task) == shape_.capacity) drop_oldest(task);

  std::copy_n(observation, held(), row);
  std::copy_n(action, shape_.action, row + held());
  row[held() + shape_.action] = reward;
  uint32_t flags = (terminated ? kTerminated : 0u) | (truncated ? kTruncated : 0u), run = 0;
  const bool ended = flags != 0;
  if (shape_.frame > 0) {
    run = continues ? number(newest) : keep(ring, observation);
    flags |= continues ? 0u : kFirst;
  }
  set_words(row, flags, run);
  if (ended)
    end_run(ring, row, flags, next_observation);
  else
    std::copy_n(next_observation, held(), mutable_row(task, at + 1 == rows() ? 0 : at + 1));
  ring.open = !ended;
  ++ring.end;
}

void TransitionStore::restore(int64_t task, Ring ring, uint32_t n, const void* kept) {
  ring.kept_end = ring.kept_begin;
  std::vector<float> observation(shape_.observation);
  const size_t bytes = observation.size() * sizeof(float);
  for (uint32_t i = 0; i < n; ++i) {
    std::memcpy(observation.data(), static_cast<const char*>(kept) + i * bytes, bytes);
    keep(ring, observation.data());
  }
  rings_[task] = std::move(ring);
}

TransitionStore::Runs TransitionStore::runs_of(const Ring& ring) const {
  const int64_t lead = shape_.frame > 0 && ring.begin > 0 ? 1 : 0;
  const int64_t first = row_of(ring.begin - lead), last = first + lead + ring.end - ring.begin + ring.open;
  return {{first, 0}, {std::min(last, rows()), std::max<int64_t>(last - rows(), 0)}};
}

int64_t TransitionStore::count_kept(int64_t task, int64_t first, int64_t last) const {
  int64_t kept = 0;
  for (int64_t sequence = first; sequence < last; ++sequence)
    kept += (flags(row(task, row_of(sequence))) & kLast) != 0;
  return kept;
}

// The newest transition may yet become its run's last, so its number is left open.
void TransitionStore::note_numbers(int64_t task, const RingImage& image) const {
  const Ring& ring = rings_[task];
  const int64_t settled = std::max(ring.begin, ring.end - 1);
  image.numbers[3] = settled;
  image.numbers[4] = ring.kept_begin + count_kept(task, ring.begin, settled);
}

// Rows name their kept observations in the order of the ring. Where transition numbers[3] is still held, the
// numbers go on from those of the image before; else no row of that image is held.
void TransitionStore::take_image(int64_t task, const RingImage& image) {
  Ring ring;
  ring.begin = image.numbers[0];
  ring.end = image.numbers[1];
  ring.open = image.numbers[2] != 0;
  if (ring.begin < 0 || ring.end < ring.begin || ring.end - ring.begin > shape_.capacity)
    throw std::invalid_argument("an image's transitions are " + std::to_string(ring.begin) + " to " +
                                std::to_string(ring.end) + "; the capacity is " +
                                std::to_string(shape_.capacity));
  std::copy_n(image.row, rows() * stride_, mutable_row(task, 0));
  const int64_t before = std::clamp(image.numbers[3], ring.begin, ring.end);
  ring.kept_begin = static_cast<uint32_t>(image.numbers[4] - count_kept(task, ring.begin, before));
  ring.kept_end = ring.kept_begin;
  for (int64_t sequence = ring.begin; sequence < ring.end; ++sequence) {
    const int64_t at = row_of(sequence);
    float* row = mutable_row(task, at);
    if ((flags(row) & kLast) != 0)
      set_words(row, flags(row), keep(ring, image.final + at * shape_.observation));
  }
  rings_[task] = std::move(ring);
  note_numbers(task, image);
}

void TransitionStore::give_image(int64_t task, const RingImage& image) const {
  const Ring& ring = rings_[task];
  image.numbers[0] = ring.begin;
  image.numbers[1] = ring.end;
  image.numbers[2] = ring.open;
  std::copy_n(row(task, 0), rows() * stride_, image.row);
  for (int64_t sequence = ring.begin; sequence < ring.end; ++sequence) {
    const int64_t at = row_of(sequence);
    const float* live = row(task, at);
    if ((flags(live) & kLast) != 0)
      std::copy_n(kept_of(ring, number(live)), shape_.observation, image.final + at * shape_.observation);
  }
  note_numbers(task, image);
}

const char* TransitionStore::RowWalk::next(int64_t sequence, const void* row) {
  if (sequence < ring_.begin || sequence >= ring_.end) return nullptr;
  const auto* live = static_cast<const float*>(row);
  const uint32_t flags = store_.flags(live), number = store_.number(live);
  const bool oldest = sequence == ring_.begin, first = (flags & kFirst) != 0, last = (flags & kLast) != 0;
  if (store_.shape_.frame > 0) {
    if (oldest ? sequence == 0 && !first : first != last_) return "does not begin where the one before ends";
    if (!oldest && first) ++kept_;
    if (number != (kept_ & (~uint32_t{0} >> 4))) return "names the wrong kept observation";
  } else if (last && number != kept_++) {
    return "names the wrong kept observation";
  }
  if ((flags & (kTerminated | kTruncated)) != 0 && !last)
    return "ends an episode without a final observation";
  last_ = last;
  return nullptr;
}

const char* TransitionStore::RowWalk::end() const {
  const bool empty = ring_.begin == ring_.end;
  if (kept_ + (store_.shape_.frame > 0 && !empty) != ring_.kept_end)
    return "has a kept observation that belongs to no transition";
  if (ring_.open == (empty || last_)) return "has a newest transition with no next observation, or two";
  return nullptr;
}

std::string TransitionStore::check() const {
  for (int64_t task = 0; task < shape_.tasks; ++task) {
    const Ring& ring = rings_[task];
    const std::string name = "task " + std::to_string(task) + ": ";
    if (ring.begin < 0 || size(task) < 0 || size(task) > shape_.capacity) return name + "impossible size";
    RowWalk walk(*this, ring);
    for (int64_t sequence = ring.begin; sequence < ring.end; ++sequence)
      if (const char* wrong = walk.next(sequence, row(task, row_of(sequence))))
        return name + "transition " + std::to_string(sequence) + " " + wrong;
    if (const char* wrong = walk.end()) return name + "the ring " + wrong;
    const auto length = static_cast<uint32_t>(ring.kept.size() / shape_.observation);
    if ((length & (length - 1)) != 0 || ring.kept_end - ring.kept_begin > length)
      return name + "the ring of kept observations is too short";
  }
  return "";
}
