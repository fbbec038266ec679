#pragma once

// Makes `device` the calling thread's as long as it lives, and then the one before it, unless this process
// has not used that one: nothing opens a context on a device that the caller did not name. Throws CudaError
// where there is no such device or no driver.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0, device_;
};
