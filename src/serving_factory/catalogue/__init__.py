"""What upstream is: releases, distributions and CPU levels, as data with one small loader."""
