#pragma once

// Marks what libtorchwhisper exports; everything else is hidden.
#define TORCHWHISPER_API __attribute__((visibility("default")))
