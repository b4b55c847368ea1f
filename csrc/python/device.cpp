// SPDX-License-Identifier: Apache-2.0
#include "python/device.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>

#include <exception>
#include <memory>

#include "cuda/memory.h"

namespace py = pybind11;

namespace edge {
namespace {

void require_bytes(const DeviceBuffer& buffer, const py::array& array, bool writeable) {
  if (!(array.flags() & py::array::c_style) || array.nbytes() != buffer.bytes() ||
      (writeable && !array.writeable()))
    throw std::invalid_argument("the array must be C-contiguous and have " + std::to_string(buffer.bytes()) +
                                " bytes");
}

std::unique_ptr<DeviceGraph> record_graph(const std::shared_ptr<DeviceStream>& stream,
                                          const py::function& work) {
  // An exception must not cross the library: it is kept, ends the recording, and is raised afterwards.
  std::exception_ptr raised;
  try {
    return std::make_unique<DeviceGraph>(stream, [&] {
      try {
        return work().cast<bool>();
      } catch (const py::error_already_set&) {
        raised = std::current_exception();
        return false;
      }
    });
  } catch (const std::runtime_error&) {
    if (raised) std::rethrow_exception(raised);
    throw;
  }
}

void copy_to_device(DeviceBuffer& buffer, const py::array& array) {
  require_bytes(buffer, array, false);
  const void* from = array.data();
  const py::gil_scoped_release released;
  buffer.write(from);
}

void copy_from_device(const DeviceBuffer& buffer, py::array array) {
  require_bytes(buffer, array, true);
  void* to = array.mutable_data();
  const py::gil_scoped_release released;
  buffer.read(to);
}

}  // namespace

void bind_device(py::module_& m) {
  const py::exception<DeviceUnusable>& unusable =
      py::register_exception<DeviceUnusable>(m, "DeviceUnusable", PyExc_RuntimeError);
  py::register_exception<ModelUnsupported>(m, "ModelUnsupported", unusable);  // the last one is asked first
  m.def(
      "cuda_device",
      [](const std::string& library) {
        const EdgeCudaDevice device = CudaLibrary(library).probe();
        return py::dict(
            py::arg("name") = device.name, py::arg("major") = device.major, py::arg("minor") = device.minor,
            py::arg("total_bytes") = device.total_bytes, py::arg("free_bytes") = device.free_bytes,
            py::arg("uuid") = py::bytes(reinterpret_cast<const char*>(device.uuid), sizeof device.uuid),
            py::arg("processors") = device.processors);
      },
      py::arg("library"),
      "The device that the CUDA library would use; DeviceUnusable says why there is none.");

  m.def(
      "device_copy_bandwidth",
      [](const std::string& library, int64_t bytes) {
        const CudaLibrary opened(library);
        opened.probe();
        double gbps = 0.0;
        EdgeCudaReason reason{};
        check_cuda(opened.api().copy_bandwidth(bytes, &gbps, &reason), reason);
        return gbps;
      },
      py::arg("library"), py::arg("bytes"), py::call_guard<py::gil_scoped_release>(),
      "GB/s read and written while memory of the device is copied within it: best pass.");

  m.def(
      "device_read",
      [](const std::string& library, uintptr_t address, py::array array) {
        if (!(array.flags() & py::array::c_style) || !array.writeable() || address == 0)
          throw std::invalid_argument("an address and a C-contiguous array are needed");
        const CudaLibrary opened(library);
        void* to = array.mutable_data();
        const int64_t bytes = array.nbytes();
        const py::gil_scoped_release released;
        EdgeCudaReason reason{};
        check_cuda(opened.api().copy(to, reinterpret_cast<const void*>(address), bytes, 0, &reason), reason);
      },
      py::arg("library"), py::arg("address"), py::arg("array"),
      "Fills a C-contiguous array with what lies at an address of the device.");

  py::class_<DeviceBuffer>(m, "DeviceBuffer")
      .def(py::init<const std::string&, int64_t>(), py::arg("library"), py::arg("bytes"))
      .def_property_readonly("address", &DeviceBuffer::address)
      .def_property_readonly("bytes", &DeviceBuffer::bytes)
      .def("write", &copy_to_device, py::arg("array"), "Copies a C-contiguous array of as many bytes.")
      .def("read", &copy_from_device, py::arg("array"), "Fills a C-contiguous array of as many bytes.");
  py::class_<DeviceStream, std::shared_ptr<DeviceStream>>(m, "DeviceStream")
      .def(py::init<const std::string&>(), py::arg("library"))
      .def_property_readonly("handle", &DeviceStream::handle)
      .def("wait", &DeviceStream::wait, py::call_guard<py::gil_scoped_release>());
  py::class_<DeviceGraph>(m, "DeviceGraph")
      .def(py::init(&record_graph), py::arg("stream"), py::arg("work"),
           "What `work` starts on the stream, recorded; it returns False where it failed.")
      .def("replay", &DeviceGraph::replay, py::call_guard<py::gil_scoped_release>());
}

}  // namespace edge
