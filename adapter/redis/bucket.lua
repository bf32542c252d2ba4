-- Takes from a token bucket, in one step.
--
-- KEYS[1]  the count: at, when it was so, in microseconds; missing, how much to a full bucket
-- KEYS[2]  what this very call took before: "amount"
-- ARGV     amount, best effort (1 or 0), limit, window in microseconds, for how many milliseconds to remember the call (0: not),
--          what comes back in a window
--
-- Returns the amount taken, and 0.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local amount, limit, window, remember, refill = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

if remember > 0 then
  local before = redis.call('GET', KEYS[2])
  if before then
    return {tonumber(before), 0}
  end
end

local count = redis.call('HMGET', KEYS[1], 'at', 'missing')
local at, missing = tonumber(count[1] or now), tonumber(count[2] or 0)
if now > at then -- Else the clock was set back: what comes back, comes back from now on.
  missing = math.max(missing - (now - at) / window * refill, 0)
end
local left = math.floor(limit - missing)
if amount > left then
  amount = ARGV[2] == '1' and math.max(left, 0) or 0
end
if amount > 0 then
  missing = missing + amount
  redis.call('HSET', KEYS[1], 'at', now, 'missing', missing)
  redis.call('PEXPIRE', KEYS[1], math.ceil(missing / refill * window / 1000) + 1)
  if remember > 0 then
    redis.call('SET', KEYS[2], amount, 'PX', remember)
  end
elseif now < at then
  redis.call('HSET', KEYS[1], 'at', now)
end
return {amount, 0}
