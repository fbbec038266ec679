#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

// Arrays that arrive from Python: NumPy arrays and torch tensors, told apart without linking libtorch. About
// 0.05 us for a NumPy array, 0.8 us for a tensor. Everything is checked before a pointer is used; what is
// wrong raises TypeError or ValueError naming the argument. `Call` sees to it that arrays which are written
// share no memory with others of the same call.
//
// Not promised: that another thread does not resize or free an array while a call that was given it runs.
namespace arrays {

namespace py = pybind11;

enum class Dtype { f32, f64, i64, i32, u8, boolean };

// Dense, row-major; the caller keeps the Python object alive while the pointer is used.
struct Array {
  void* data;
  Dtype dtype;
  int device;  // -1 is the CPU, otherwise the CUDA device's index
  bool writable;
  int ndim;
  int64_t shape[8];
};

inline const char* name_of(Dtype dtype) {
  static const char* const names[] = {"float32", "float64", "int64", "int32", "uint8", "bool"};
  return names[static_cast<int>(dtype)];
}

template <class T>
struct DtypeOf;
template <>
struct DtypeOf<float> {
  static constexpr Dtype value = Dtype::f32;
};
template <>
struct DtypeOf<double> {
  static constexpr Dtype value = Dtype::f64;
};
template <>
struct DtypeOf<int64_t> {
  static constexpr Dtype value = Dtype::i64;
};
template <>
struct DtypeOf<int32_t> {
  static constexpr Dtype value = Dtype::i32;
};
template <>
struct DtypeOf<uint8_t> {
  static constexpr Dtype value = Dtype::u8;
};
template <>
struct DtypeOf<bool> {
  static constexpr Dtype value = Dtype::boolean;
};

// What is needed of torch, looked up once, when the first tensor arrives. Never freed: the interpreter may be
// gone by the time static objects are.
struct Torch {
  PyTypeObject* tensor;
  PyObject* dtypes[6];  // in Dtype's order
  PyObject *dtype, *data_ptr, *shape, *is_contiguous, *is_cpu, *get_device, *is_neg, *untyped_storage,
      *nbytes;

  // nullptr where torch was not imported; then nothing can be a tensor.
  static const Torch* loaded() {
    static const Torch* torch = nullptr;
    if (torch == nullptr) {
      PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "torch");
      if (module == nullptr || !PyObject_HasAttrString(module, "Tensor")) return nullptr;
      auto get = [&](const char* name) { return py::getattr(module, name).release().ptr(); };
      auto intern = [](const char* name) { return PyUnicode_InternFromString(name); };
      auto* found = new Torch;
      found->tensor = reinterpret_cast<PyTypeObject*>(get("Tensor"));
      for (int i = 0; i < 6; ++i) found->dtypes[i] = get(name_of(static_cast<Dtype>(i)));
      found->dtype = intern("dtype");
      found->data_ptr = intern("data_ptr");
      found->shape = intern("shape");
      found->is_contiguous = intern("is_contiguous");
      found->is_cpu = intern("is_cpu");
      found->get_device = intern("get_device");
      found->is_neg = intern("is_neg");
      found->untyped_storage = intern("untyped_storage");
      found->nbytes = intern("nbytes");
      torch = found;
    }
    return torch;
  }
};

inline bool is_tensor(py::handle object) {
  const Torch* torch = Torch::loaded();
  return torch != nullptr && PyObject_TypeCheck(object.ptr(), torch->tensor);
}

inline py::object checked(PyObject* result) {
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

inline std::string type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

[[noreturn]] inline void bad_dtype(const char* name, const std::string& got) {
  throw py::type_error(std::string(name) + " has dtype " + got +
                       "; expected float32, float64, int64, int32, uint8 or bool");
}

[[noreturn]] inline void not_dense(const char* name) {
  throw py::value_error(std::string(name) + " is not contiguous; pass a contiguous copy");
}

// For a tensor without strided memory (sparse, MKL-DNN's): its layout is what is wrong.
inline void check_layout(py::handle tensor, const char* name) {
  const std::string layout = py::str(tensor.attr("layout"));
  if (layout != "torch.strided")
    throw py::value_error(std::string(name) + " has the layout " + layout + "; pass .to_dense()");
}

inline int64_t bytes_of(Dtype dtype) {
  constexpr int64_t kBytes[] = {4, 8, 8, 4, 1, 1};
  return kBytes[static_cast<int>(dtype)];
}

inline int64_t bytes_of(const Array& array) {
  int64_t bytes = bytes_of(array.dtype);
  for (int i = 0; i < array.ndim; ++i) bytes *= array.shape[i];
  return bytes;
}

inline py::object call(py::handle object, PyObject* name) {
  return checked(PyObject_CallMethodNoArgs(object.ptr(), name));
}

inline void* address(py::handle object, const Torch& torch) {
  void* address = PyLong_AsVoidPtr(call(object, torch.data_ptr).ptr());
  if (address == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return address;
}

// A tensor keeps its shape when its storage is resized or freed.
inline void check_storage(const Array& array, py::handle tensor, const char* name, const Torch& torch) {
  const int64_t need = bytes_of(array);
  if (need == 0) return;
  if (array.data == nullptr)
    throw py::value_error(std::string(name) + " has no memory: its storage was freed; pass a new tensor");
  const py::object storage = call(tensor, torch.untyped_storage);
  const auto bytes = PyLong_AsLongLong(call(storage, torch.nbytes).ptr());
  const auto first = reinterpret_cast<uintptr_t>(address(storage, torch)),
             mine = reinterpret_cast<uintptr_t>(array.data);
  if (mine < first || mine + need > first + bytes)
    throw py::value_error(std::string(name) + " takes " + std::to_string(need) + " bytes, its storage has " +
                          std::to_string(bytes) + ": it was resized; pass a new tensor");
}

inline Array from_tensor(py::handle tensor, const char* name, const Torch& torch) {
  Array array{};
  PyObject* object = tensor.ptr();
  py::object dtype = checked(PyObject_GetAttr(object, torch.dtype));
  int code = 0;
  while (code < 6 && torch.dtypes[code] != dtype.ptr()) ++code;
  if (code == 6) bad_dtype(name, py::str(dtype));
  array.dtype = static_cast<Dtype>(code);
  if (call(tensor, torch.is_contiguous).ptr() != Py_True) {
    check_layout(tensor, name);
    not_dense(name);
  }
  if (call(tensor, torch.is_neg).ptr() == Py_True)
    throw py::value_error(std::string(name) + " is a negated view; pass .resolve_neg()");
  py::object shape = checked(PyObject_GetAttr(object, torch.shape));
  array.ndim = static_cast<int>(PyTuple_GET_SIZE(shape.ptr()));
  if (array.ndim > 8) throw py::value_error(std::string(name) + " has more than 8 dimensions");
  for (int i = 0; i < array.ndim; ++i) array.shape[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), i));
  array.device = -1;
  if (checked(PyObject_GetAttr(object, torch.is_cpu)).ptr() != Py_True) {
    array.device = static_cast<int>(PyLong_AsLong(call(tensor, torch.get_device).ptr()));
    if (array.device < 0)
      throw py::value_error(std::string(name) + " has no memory (a meta or fake tensor); pass a real one");
  }
  try {
    array.data = address(tensor, torch);
  } catch (const py::error_already_set&) {
    check_layout(tensor, name);
    throw;
  }
  check_storage(array, tensor, name, torch);
  array.writable = true;
  return array;
}

inline Dtype numpy_dtype(const py::array& array, const char* name) {
  const py::dtype dtype = array.dtype();
  const char kind = dtype.kind();
  const auto size = dtype.itemsize();
  const char order = dtype.byteorder();
  if (order == '=' || order == '|') {
    if (kind == 'f' && size == 4) return Dtype::f32;
    if (kind == 'f' && size == 8) return Dtype::f64;
    if (kind == 'i' && size == 8) return Dtype::i64;
    if (kind == 'i' && size == 4) return Dtype::i32;
    if (kind == 'u' && size == 1) return Dtype::u8;
    if (kind == 'b') return Dtype::boolean;
  }
  bad_dtype(name, py::str(py::handle(dtype)));
}

inline Array from_numpy(const py::array& source, const char* name) {
  Array array{};
  array.dtype = numpy_dtype(source, name);
  if ((source.flags() & py::array::c_style) == 0) not_dense(name);
  array.ndim = static_cast<int>(source.ndim());
  if (array.ndim > 8) throw py::value_error(std::string(name) + " has more than 8 dimensions");
  for (int i = 0; i < array.ndim; ++i) array.shape[i] = source.shape(i);
  array.device = -1;
  array.data = const_cast<void*>(source.data());
  array.writable = source.writeable();
  return array;
}

inline Array aligned(const Array& array, const char* name) {
  if (reinterpret_cast<uintptr_t>(array.data) % bytes_of(array.dtype) != 0)
    throw py::value_error(std::string(name) + " does not start at a multiple of its " +
                          std::to_string(bytes_of(array.dtype)) + " bytes in memory; pass a copy");
  return array;
}

// The array behind a NumPy array or a torch tensor on any device. Raises for any other object, other dtypes,
// strides, and places in memory that no compiler expects.
inline Array view(py::handle object, const char* name) {
  if (is_tensor(object)) return aligned(from_tensor(object, name, *Torch::loaded()), name);
  if (py::isinstance<py::array>(object))
    return aligned(from_numpy(py::reinterpret_borrow<py::array>(object), name), name);
  throw py::type_error(std::string(name) + " is a " + type_name(object) +
                       "; expected a NumPy array or a torch tensor");
}

inline std::string shape_text(const int64_t* shape, int ndim) {
  std::string text = "[";
  for (int i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// Raises ValueError unless `array` has exactly this shape; -1 stands for any length.
inline void check_shape(const Array& array, const char* name, std::initializer_list<int64_t> shape) {
  bool same = array.ndim == static_cast<int>(shape.size());
  int axis = 0;
  for (int64_t length : shape) {
    same = same && (length == -1 || array.shape[axis] == length);
    ++axis;
  }
  if (!same)
    throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape, array.ndim) +
                          "; expected " + shape_text(shape.begin(), static_cast<int>(shape.size())));
}

inline void check_cpu(const Array& array, const char* name) {
  if (array.device >= 0)
    throw py::value_error(std::string(name) + " is on cuda:" + std::to_string(array.device) +
                          "; expected the CPU: pass .cpu()");
}

template <class T>
T* typed(const Array& array, const char* name) {
  if (array.dtype != DtypeOf<T>::value)
    throw py::type_error(std::string(name) + " has dtype " + name_of(array.dtype) + "; expected " +
                         name_of(DtypeOf<T>::value));
  return static_cast<T*>(array.data);
}

using Shape = std::initializer_list<int64_t>;

// A CPU array of exactly this shape.
inline Array shaped(py::handle object, const char* name, Shape shape) {
  const Array array = view(object, name);
  check_cpu(array, name);
  check_shape(array, name, shape);
  return array;
}

// The pointer of a CPU array of exactly this dtype and shape, to read from.
template <class T>
const T* input(py::handle object, const char* name, Shape shape) {
  return typed<T>(shaped(object, name, shape), name);
}

// The same of bools. A byte that is neither 0 nor 1 (NumPy and torch can view any byte as a bool) is refused.
inline const bool* flags(py::handle object, const char* name, int64_t n) {
  const bool* flags = input<bool>(object, name, {n});
  const auto* bytes = reinterpret_cast<const uint8_t*>(flags);
  for (int64_t i = 0; i < n; ++i)
    if (bytes[i] > 1)
      throw py::value_error(std::string(name) + "[" + std::to_string(i) + "] is a bool with the byte " +
                            std::to_string(bytes[i]) + "; expected 0 or 1: pass " + name +
                            ".view(uint8) != 0");
  return flags;
}

// The arrays of one call that writes to some of them. Raises ValueError, naming both, where one that is
// written shares memory with another.
class Call {
 public:
  Call() { spans_.reserve(32); }  // more than any call has

  // As arrays::input.
  template <class T>
  const T* input(py::handle object, const char* name, Shape shape) {
    const Array array = shaped(object, name, shape);
    add(array, name, false);
    return typed<T>(array, name);
  }
  // The same, to write to. It may be the very array called `in_place`, which must have been added before.
  template <class T>
  T* output(py::handle object, const char* name, Shape shape, const char* in_place = nullptr) {
    const Array array = shaped(object, name, shape);
    if (!array.writable) throw py::value_error(std::string(name) + " is read-only");
    add(array, name, true, in_place);
    return typed<T>(array, name);
  }
  // The same; nullptr for None.
  template <class T>
  T* output_or_null(py::handle object, const char* name, Shape shape) {
    return object.is_none() ? nullptr : output<T>(object, name, shape);
  }
  // `name` must outlive the call.
  void add(const Array& array, const char* name, bool is_written, const char* in_place = nullptr) {
    const auto begin = reinterpret_cast<uintptr_t>(array.data);
    const Span now{begin, begin + static_cast<uintptr_t>(bytes_of(array)), name, is_written};
    for (const Span& before : spans_)
      if ((before.is_written || is_written) && before.begin < now.end && now.begin < before.end &&
          !(before.name == std::string_view(in_place == nullptr ? "" : in_place) &&
            before.begin == now.begin && before.end == now.end))
        throw py::value_error(std::string(before.name) + " and " + name +
                              " share memory; pass a copy of one");
    spans_.push_back(now);
  }

 private:
  struct Span {
    uintptr_t begin, end;
    const char* name;
    bool is_written;
  };
  std::vector<Span> spans_;
};

}  // namespace arrays
