-- Takes from a fixed window, in one step.
--
-- KEYS[1]  the count: start, of the window in microseconds; used
-- KEYS[2]  what this very call took before: "amount end"
-- ARGV     amount, best effort (1 or 0), limit, window in microseconds, for how many milliseconds to remember the call (0: not)
--
-- Returns the amount taken and how many microseconds are left of the window.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local amount, limit, window, remember = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

if remember > 0 then
  local before = redis.call('GET', KEYS[2])
  if before then
    local took, ends = string.match(before, '(%d+) (%d+)')
    return {tonumber(took), math.min(math.max(ends - now, 0), window)}
  end
end

local count = redis.call('HMGET', KEYS[1], 'start', 'used')
local start, used = tonumber(count[1] or now), tonumber(count[2] or 0)
local setBack = now < start
if setBack then
  start = now -- The clock was set back. The window starts anew, and nothing of it is given back.
elseif now - start >= window then
  start, used = now, 0
end
if amount > limit - used then
  amount = ARGV[2] == '1' and math.max(limit - used, 0) or 0
end
local rest = start + window - now
if amount > 0 or setBack then -- Else it would start anew with each call that takes nothing, until the clock is where it was.
  redis.call('HSET', KEYS[1], 'start', start, 'used', used + amount)
  redis.call('PEXPIRE', KEYS[1], math.ceil(rest / 1000) + 1)
end
if amount > 0 and remember > 0 then
  redis.call('SET', KEYS[2], string.format('%.0f %.0f', amount, start + window), 'PX', remember)
end
return {amount, rest}
