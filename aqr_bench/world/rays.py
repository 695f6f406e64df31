"""The inner loops, compiled: rays against upright cuboids, points against boxes, colours of pixels, LiDAR returns.

Both sensors shoot fans of rays: all rays of a column share their direction on the ground (dx, dy), all rays of a row
their slope dz. So the two vertical pairs of faces are intersected once per column, and a row only asks at what height
it meets them. The kernels draw no random numbers and call no transcendental function: every machine gets the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

MISS = -1  # part index where a ray meets no cuboid


def compiled(function: Callable) -> Callable:
    """Compile ``function`` at its first call; keep the machine code on disk where there is a place for it."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        return numba.njit(function)


@compiled
def _first_below(slopes, value):
    """Return the first index of the falling ``slopes`` (R,) that is not above ``value``."""
    low, high = 0, len(slopes)
    while low < high:
        middle = (low + high) // 2
        if slopes[middle] > value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def cast_fan(origin, dx, dy, dz, center, heading, half, owner, first, count, depth, part, stamp, unoccluded):
    """Cast a fan of rays at P cuboids; keep for each ray the nearest hit and whose it is.

    ``origin`` (3,), ``dx`` and ``dy`` (C,), ``dz`` (R,) falling; ``center`` and ``half`` (P, 3), ``heading`` (P, 2)
    cosine and sine of the yaw; columns ``first`` .. ``first + count`` (P,), which may pass the end and begin anew.
    ``depth`` and ``part`` (R, C) are updated, distances in units of the direction. ``unoccluded`` (A,) counts for the
    owners below A the rays that hit them whatever is in front; ``stamp`` (R, C) is its memory, zero in the beginning.
    """
    columns = len(dx)
    for p in range(len(owner)):
        cos, sin = heading[p, 0], heading[p, 1]
        shift_x, shift_y = origin[0] - center[p, 0], origin[1] - center[p, 1]
        start_x, start_y = cos * shift_x + sin * shift_y, cos * shift_y - sin * shift_x
        low, high = center[p, 2] - half[p, 2] - origin[2], center[p, 2] + half[p, 2] - origin[2]
        counted = owner[p] < len(unoccluded)
        for k in range(first[p], first[p] + count[p]):
            c = k % columns
            ray_x, ray_y = cos * dx[c] + sin * dy[c], cos * dy[c] - sin * dx[c]
            if ray_x == 0.0:
                ray_x = 1e-12  # parallel to a face: keep 0 * inf out of the slabs
            if ray_y == 0.0:
                ray_y = 1e-12
            middle, reach = -start_x / ray_x, abs(half[p, 0] / ray_x)
            near, far = middle - reach, middle + reach
            middle, reach = -start_y / ray_y, abs(half[p, 1] / ray_y)
            near, far = max(near, middle - reach), min(far, middle + reach)
            if not near < far or far <= 0.0:
                continue
            entry = max(near, 1e-6)
            highest = high / entry if high > 0 else high / far
            lowest = low / entry if low < 0 else low / far
            for r in range(_first_below(dz, highest), len(dz)):
                slope = dz[r]
                if slope < lowest:
                    break
                height = slope * near
                if height > high:
                    t = high / slope  # comes in through the top (slope < 0)
                elif height < low:
                    t = low / slope  # or through the bottom
                else:
                    t = near
                if not (t > 0.0 and t < far):
                    continue
                if counted and stamp[r, c] != owner[p] + 1:
                    stamp[r, c] = owner[p] + 1
                    unoccluded[owner[p]] += 1
                if t < depth[r, c]:
                    depth[r, c] = t
                    part[r, c] = p


@compiled
def shade(origin, dx, dy, dz, depth, part, center, heading, half, texture_of, textures, light, haze, clear, sky,
          plain, drawing, reach_m, exposure, noise, picture):  # fmt: skip
    """Colour a picture (H, W, 3) uint8 from the hits of a fan of twice its size, averaging each four rays.

    ``textures`` (T, 6, S, S, 3) are the faces, ``texture_of`` (P,) whose they are, ``light`` (P, 6) the brightness of
    each face; ``haze`` (3,) the colour of the haze, ``clear`` (N,) the share that gets through it for depths of N / 4
    m; ``sky`` (R, 3) its colour per row; ``drawing`` (G, G, 3) uint8 the ground within ``reach_m``, ``plain`` (3,)
    beyond it. ``exposure`` multiplies, ``noise`` (H, W, 3) in grey levels is added.
    """
    cells, texels = drawing.shape[0], textures.shape[2]
    scale = cells / (2 * reach_m)
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            red, green, blue = 0.0, 0.0, 0.0
            for r in range(2 * row, 2 * row + 2):
                for c in range(2 * column, 2 * column + 2):
                    t, p = depth[r, c], part[r, c]
                    x, y = origin[0] + dx[c] * t, origin[1] + dy[c] * t
                    if p >= 0:
                        off_x, off_y = x - center[p, 0], y - center[p, 1]
                        cos, sin = heading[p, 0], heading[p, 1]
                        a = (cos * off_x + sin * off_y) / half[p, 0]
                        b = (cos * off_y - sin * off_x) / half[p, 1]
                        h = (origin[2] + dz[r] * t - center[p, 2]) / half[p, 2]
                        if abs(h) >= abs(a) and abs(h) >= abs(b):
                            face, u, v = 4 if h > 0 else 5, a, b
                        elif abs(a) >= abs(b):
                            face, u, v = 0 if a > 0 else 1, b, -h
                        else:
                            face, u, v = 2 if b > 0 else 3, a, -h
                        i = min(max(int((v + 1) * (texels / 2)), 0), texels - 1)
                        j = min(max(int((u + 1) * (texels / 2)), 0), texels - 1)
                        level = light[p, face]
                        texel = textures[texture_of[p], face, i, j]
                        one, two, three = texel[0] * level, texel[1] * level, texel[2] * level
                    elif dz[r] >= 0:
                        red, green, blue = red + sky[r, 0], green + sky[r, 1], blue + sky[r, 2]
                        continue
                    else:
                        share = min(max((max(abs(x), abs(y)) / reach_m - 0.75) / 0.22, 0.0), 1.0)
                        one, two, three = plain[0], plain[1], plain[2]
                        if share < 1.0:
                            gx, gy = (x + reach_m) * scale - 0.5, (y + reach_m) * scale - 0.5
                            j, i = int(gx), int(gy)
                            wx, wy = gx - j, gy - i
                            w = (1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy
                            q, s = drawing[i], drawing[i + 1]
                            keep = (1 - share) / 255
                            one = one * share + keep * (
                                w[0] * q[j, 0] + w[1] * q[j + 1, 0] + w[2] * s[j, 0] + w[3] * s[j + 1, 0]
                            )
                            two = two * share + keep * (
                                w[0] * q[j, 1] + w[1] * q[j + 1, 1] + w[2] * s[j, 1] + w[3] * s[j + 1, 1]
                            )
                            three = three * share + keep * (
                                w[0] * q[j, 2] + w[1] * q[j + 1, 2] + w[2] * s[j, 2] + w[3] * s[j + 1, 2]
                            )
                    through = clear[min(int(4 * t), len(clear) - 1)]
                    red += haze[0] + (one - haze[0]) * through
                    green += haze[1] + (two - haze[1]) * through
                    blue += haze[2] + (three - haze[2]) * through
            for channel, total in enumerate((red, green, blue)):
                value = total * 0.25 * exposure + noise[row, column, channel] + 0.5
                picture[row, column, channel] = np.uint8(min(max(value, 0.0), 255.0))


@compiled
def returns(origin, dx, dy, dz, level, depth, part, center, heading, half, owner, intensity, ground_intensity,
            max_range, strength, lost, noise, speckle, cloud, owners):  # fmt: skip
    """Turn the hits (R, C) of a fan into LiDAR points, all rings of one azimuth after the other; return how many.

    ``level`` (R,) is the cosine of each row's elevation, ``intensity`` (P,) reflectances of 0 .. 255. A pulse comes
    back if ``lost`` (R, C), an exponential random number, is below ``strength`` * reflectance * incidence / range^2;
    ``noise`` (R, C) is added to the range, ``speckle`` (R, C) multiplies the intensity. ``cloud`` (R * C, 5) and
    ``owners`` (R * C,) are filled from the front; a row is one ring, the lowest last.
    """
    rows, columns = depth.shape
    n = 0
    for c in range(columns):
        for ring in range(rows):
            r = rows - 1 - ring
            distance = depth[r, c] / level[r]
            if not distance < max_range:
                continue
            p = part[r, c]
            if p >= 0:
                t = depth[r, c]
                off_x, off_y = origin[0] + dx[c] * t - center[p, 0], origin[1] + dy[c] * t - center[p, 1]
                cos, sin = heading[p, 0], heading[p, 1]
                a = abs(cos * off_x + sin * off_y) / half[p, 0]
                b = abs(cos * off_y - sin * off_x) / half[p, 1]
                h = abs(origin[2] + dz[r] * t - center[p, 2]) / half[p, 2]
                if h >= a and h >= b:
                    incidence = abs(dz[r]) * level[r]
                elif a >= b:
                    incidence = abs(cos * dx[c] + sin * dy[c]) * level[r]
                else:
                    incidence = abs(cos * dy[c] - sin * dx[c]) * level[r]
                bright, whose = intensity[p], owner[p]
            else:
                incidence, bright, whose = abs(dz[r]) * level[r], ground_intensity, -1
            bright *= 0.35 + 0.65 * incidence
            if not lost[r, c] * distance * distance < strength * bright:
                continue
            measured = (distance + noise[r, c]) * level[r]
            cloud[n, 0] = -dy[c] * measured  # ego axes to LiDAR axes
            cloud[n, 1] = dx[c] * measured
            cloud[n, 2] = dz[r] * measured
            cloud[n, 3] = np.rint(min(max(bright * speckle[r, c], 0.0), 255.0))
            cloud[n, 4] = ring
            owners[n] = whose
            n += 1
    return n


@compiled
def count_inside(points, center, heading, half):
    """Count (B,) the points (N, 3) inside or on upright boxes; ``center`` and ``half`` (B, 3), ``heading`` (B, 2)."""
    counts = np.zeros(len(center), np.int64)
    for b in range(len(center)):
        cos, sin = heading[b, 0], heading[b, 1]
        reach = half[b, 0] + half[b, 1]
        for n in range(len(points)):
            x, y = points[n, 0] - center[b, 0], points[n, 1] - center[b, 1]
            if abs(x) <= reach and abs(y) <= reach:
                inside = abs(cos * x + sin * y) <= half[b, 0] and abs(cos * y - sin * x) <= half[b, 1]
                if inside and abs(points[n, 2] - center[b, 2]) <= half[b, 2]:
                    counts[b] += 1
    return counts
