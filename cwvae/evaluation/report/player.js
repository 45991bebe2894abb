// Each video gets a button and a slider in place of the browser's controls, which hide a part of the
// picture and cannot show a single frame. Videos start paused for readers who prefer less motion.
const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
for (const video of document.querySelectorAll('video')) {
  const controls = video.closest('figure').querySelector('.controls');
  const [button, slider, position] = controls.children;
  const frames = Number(slider.max) + 1;
  const show = () => {
    const frame = Math.min(frames - 1, Math.floor(video.currentTime / video.duration * frames));
    const part = frame < video.dataset.context ? 'context' : 'predicted';
    slider.value = frame;
    position.textContent = `frame ${Number(video.dataset.first) + frame}, ${part}`;
    slider.setAttribute('aria-valuetext', position.textContent);
    button.textContent = video.paused ? 'Play' : 'Pause';
    button.setAttribute('aria-label', `${button.textContent} ${video.dataset.name}`);
  };
  const follow = () => {
    show();
    if (!video.paused) requestAnimationFrame(follow);
  };
  const go = (frame) => {
    // The middle of a frame: rounding cannot lead to its neighbour.
    video.currentTime = (frame + 0.5) / frames * video.duration;
  };
  const start = () => {
    controls.hidden = false;
    video.controls = false;
    if (calm) go(Number(slider.value));
    else video.play().catch(() => go(Number(slider.value)));  // Autoplay may be forbidden.
  };
  const fail = () => {
    video.closest('figure').querySelector('.unplayable').hidden = false;
    video.controls = false;
    controls.hidden = true;
  };
  button.onclick = () => video.paused ? video.play() : video.pause();
  slider.oninput = () => {
    video.pause();
    go(Number(slider.value));
  };
  video.onplay = follow;
  video.onseeked = show;
  video.onpause = () => go(Number(slider.value));  // The clock may be ahead of the picture.
  if (video.error) fail();
  else video.onerror = fail;
  if (video.readyState) start();
  else video.onloadedmetadata = start;
}
