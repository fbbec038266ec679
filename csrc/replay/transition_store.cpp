#include "replay/transition_store.h"

#include <algorithm>
#include <cstring>
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

void TransitionStore::restore(int64_t task, Ring ring, uint32_t first, uint32_t n, const void* kept) {
  ring.kept_begin = ring.kept_end = first;
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

std::string TransitionStore::check() const {
  for (int64_t task = 0; task < shape_.tasks; ++task) {
    const Ring& ring = rings_[task];
    const std::string name = "task " + std::to_string(task) + ": ";
    if (ring.begin < 0 || size(task) < 0 || size(task) > shape_.capacity) return name + "impossible size";
    const bool stacked = shape_.frame > 0;
    uint32_t kept = ring.kept_begin;  // number that the next row may name
    for (int64_t sequence = ring.begin; sequence < ring.end; ++sequence) {
      const float* live = row(task, row_of(sequence));
      const std::string which = name + "transition " + std::to_string(sequence);
      if (stacked && sequence > ring.begin && (flags(live) & kFirst) != 0) ++kept;
      const uint32_t bits = stacked ? ~uint32_t{0} >> 4 : ~uint32_t{0};
      if ((stacked || (flags(live) & kLast) != 0) && number(live) != (kept & bits))
        return which + " names the wrong kept observation";
      if (!stacked && (flags(live) & kLast) != 0) ++kept;
      if ((flags(live) & (kTerminated | kTruncated)) != 0 && (flags(live) & kLast) == 0)
        return which + " ends an episode without a final observation";
    }
    if (kept + (stacked && size(task) > 0) != ring.kept_end)
      return name + "a kept observation belongs to no transition";
    const auto length = static_cast<uint32_t>(ring.kept.size() / shape_.observation);
    if ((length & (length - 1)) != 0 || ring.kept_end - ring.kept_begin > length)
      return name + "the ring of kept observations is too short";
    if (size(task) > 0 && ring.open == ((flags(row(task, row_of(ring.end - 1))) & kLast) != 0))
      return name + "the newest transition has no next observation, or two";
  }
  return "";
}
